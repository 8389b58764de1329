/*
 * base/hash.c: SHA-256 and SHA-1 (FIPS 180-4). One 64-byte block at a time goes through a compression
 * function chosen once: portable C, or the SHA instructions of x86 (hash_x86.c), about six times as fast.
 */
#include "base/hash.h"
#include "base/hash_internal.h"

#include <stdatomic.h>
#include <string.h>

const uint32_t sha256_round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotate_right(uint32_t value, int count)
{
    return value >> count | value << (32 - count);
}

static uint32_t load_big_endian(const unsigned char *bytes)
{
    return (uint32_t)bytes[0] << 24 | (uint32_t)bytes[1] << 16 | (uint32_t)bytes[2] << 8 | bytes[3];
}

static void store_big_endian(unsigned char *bytes, uint32_t value)
{
    bytes[0] = (unsigned char)(value >> 24);
    bytes[1] = (unsigned char)(value >> 16);
    bytes[2] = (unsigned char)(value >> 8);
    bytes[3] = (unsigned char)value;
}

void sha256_blocks_portable(uint32_t state[8], const unsigned char *bytes, size_t block_count)
{
    for (; block_count > 0; block_count--, bytes += 64) {
        uint32_t schedule[64];
        for (int t = 0; t < 16; t++) {
            schedule[t] = load_big_endian(bytes + (ptrdiff_t)4 * t);
        }
        for (int t = 16; t < 64; t++) {
            uint32_t near = schedule[t - 15], far = schedule[t - 2];
            uint32_t s0 = rotate_right(near, 7) ^ rotate_right(near, 18) ^ near >> 3;
            uint32_t s1 = rotate_right(far, 17) ^ rotate_right(far, 19) ^ far >> 10;
            schedule[t] = schedule[t - 16] + s0 + schedule[t - 7] + s1;
        }
        uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
        uint32_t e = state[4], f = state[5], g = state[6], h = state[7];
        for (int t = 0; t < 64; t++) {
            uint32_t sum1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
            uint32_t sum0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
            uint32_t first = h + sum1 + ((e & f) ^ (~e & g)) + sha256_round_constants[t] + schedule[t];
            uint32_t second = sum0 + ((a & b) ^ (a & c) ^ (b & c));
            h = g;
            g = f;
            f = e;
            e = d + first;
            d = c;
            c = b;
            b = a;
            a = first + second;
        }
        state[0] += a;
        state[1] += b;
        state[2] += c;
        state[3] += d;
        state[4] += e;
        state[5] += f;
        state[6] += g;
        state[7] += h;
    }
}

static sha256_blocks_function *sha256_choose(void)
{
    static _Atomic(sha256_blocks_function *) chosen; /* every thread would choose the same */
    sha256_blocks_function *function = atomic_load_explicit(&chosen, memory_order_relaxed);
    if (function == NULL) {
        function = sha256_x86_is_supported() ? sha256_blocks_x86 : sha256_blocks_portable;
        atomic_store_explicit(&chosen, function, memory_order_relaxed);
    }
    return function;
}

void sha256_start(struct sha256 *hash)
{
    *hash = (struct sha256){
        .state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab,
                  0x5be0cd19},
    };
}

void sha256_update(struct sha256 *hash, const void *bytes, size_t count)
{
    const unsigned char *at = bytes;
    hash->total_bytes += count;
    if (hash->filled > 0) {
        size_t part = sizeof hash->block - hash->filled;
        part = part < count ? part : count;
        if (part > 0) {
            memcpy(hash->block + hash->filled, at, part);
        }
        hash->filled += part;
        at += part;
        count -= part;
        if (hash->filled < sizeof hash->block) {
            return;
        }
        sha256_choose()(hash->state, hash->block, 1);
        hash->filled = 0;
    }
    if (count >= sizeof hash->block) {
        sha256_choose()(hash->state, at, count / sizeof hash->block);
        at += count - count % sizeof hash->block;
        count %= sizeof hash->block;
    }
    if (count > 0) {
        memcpy(hash->block, at, count);
        hash->filled = count;
    }
}

void sha256_end(struct sha256 *hash, unsigned char ret_digest[SHA256_BYTES])
{
    static const unsigned char padding[64] = {0x80};
    uint64_t bits = hash->total_bytes * 8;
    unsigned char length[8];
    store_big_endian(length, (uint32_t)(bits >> 32));
    store_big_endian(length + 4, (uint32_t)bits);
    sha256_update(hash, padding, (hash->filled < 56 ? 56 : 120) - hash->filled);
    sha256_update(hash, length, sizeof length);
    for (size_t i = 0; i < 8; i++) {
        store_big_endian(ret_digest + 4 * i, hash->state[i]);
    }
}

static void hex_of(const unsigned char *bytes, size_t count, char *ret_hex)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < count; i++) {
        ret_hex[2 * i] = digits[bytes[i] >> 4];
        ret_hex[2 * i + 1] = digits[bytes[i] & 15];
    }
    ret_hex[2 * count] = '\0';
}

void sha256_end_hex(struct sha256 *hash, char ret_hex[SHA256_HEX])
{
    unsigned char digest[SHA256_BYTES];
    sha256_end(hash, digest);
    hex_of(digest, sizeof digest, ret_hex);
}

void sha256_hex_of(const void *bytes, size_t count, char ret_hex[SHA256_HEX])
{
    struct sha256 hash;
    sha256_start(&hash);
    sha256_update(&hash, bytes, count);
    sha256_end_hex(&hash, ret_hex);
}

bool sha256_hex_is_valid(const char *hex)
{
    return hex != NULL && strspn(hex, "0123456789abcdef") == 64 && hex[64] == '\0';
}

static void sha1_block(uint32_t state[5], const unsigned char *bytes)
{
    uint32_t schedule[80];
    for (int t = 0; t < 16; t++) {
        schedule[t] = load_big_endian(bytes + (ptrdiff_t)4 * t);
    }
    for (int t = 16; t < 80; t++) {
        schedule[t] =
            rotate_right(schedule[t - 3] ^ schedule[t - 8] ^ schedule[t - 14] ^ schedule[t - 16], 31);
    }
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int t = 0; t < 80; t++) {
        uint32_t mix, constant;
        if (t < 20) {
            mix = (b & c) | (~b & d);
            constant = 0x5a827999;
        } else if (t < 40) {
            mix = b ^ c ^ d;
            constant = 0x6ed9eba1;
        } else if (t < 60) {
            mix = (b & c) | (b & d) | (c & d);
            constant = 0x8f1bbcdc;
        } else {
            mix = b ^ c ^ d;
            constant = 0xca62c1d6;
        }
        uint32_t next = rotate_right(a, 27) + mix + e + constant + schedule[t];
        e = d;
        d = c;
        c = rotate_right(b, 2);
        b = a;
        a = next;
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
}

void sha1_hex_of(const void *bytes, size_t count, char ret_hex[41])
{
    uint32_t state[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    const unsigned char *at = bytes;
    size_t rest = count;
    for (; rest >= 64; rest -= 64, at += 64) {
        sha1_block(state, at);
    }
    unsigned char tail[128] = {
        0}; /* the last bytes, the 1 bit, zeros and the length in bits: one block or two */
    if (rest > 0) {
        memcpy(tail, at, rest);
    }
    tail[rest] = 0x80;
    size_t tail_bytes = rest < 56 ? 64 : 128;
    uint64_t bits = (uint64_t)count * 8;
    store_big_endian(tail + tail_bytes - 8, (uint32_t)(bits >> 32));
    store_big_endian(tail + tail_bytes - 4, (uint32_t)bits);
    for (size_t i = 0; i < tail_bytes; i += 64) {
        sha1_block(state, tail + i);
    }
    unsigned char digest[20];
    for (size_t i = 0; i < 5; i++) {
        store_big_endian(digest + 4 * i, state[i]);
    }
    hex_of(digest, sizeof digest, ret_hex);
}
