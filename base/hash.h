/* base/hash.h: SHA-256 (FIPS 180-4), with the CPU's SHA instructions where it has them; SHA-1 for the
 * 40-hex revision of a result only. Streaming; a finished context must be started again. */
#ifndef BASE_HASH_H
#define BASE_HASH_H

#include "base/error.h"
#include <stddef.h>
#include <stdint.h>

#define SHA256_BYTES 32
#define SHA256_HEX   65 /* lower-case hex and its NUL */
struct sha256 {
    uint32_t state[8];
    uint64_t total_bytes;
    unsigned char block[64];
    size_t filled;
};
void sha256_start(struct sha256 *hash);
void sha256_update(struct sha256 *hash, const void *bytes, size_t count);
void sha256_end(struct sha256 *hash, unsigned char ret_digest[SHA256_BYTES]);
void sha256_end_hex(struct sha256 *hash, char ret_hex[SHA256_HEX]);
void sha256_hex_of(const void *bytes, size_t count, char ret_hex[SHA256_HEX]);
bool sha256_hex_is_valid(const char *hex); /* exactly 64 of [0-9a-f] */

void sha1_hex_of(const void *bytes, size_t count, char ret_hex[41]);

#endif
