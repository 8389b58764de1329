/* base/hash_internal.h: the compression functions behind base/hash.h; also for its test, which runs both. */
#ifndef BASE_HASH_INTERNAL_H
#define BASE_HASH_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Takes `block_count` blocks of 64 bytes into the state. */
typedef void sha256_blocks_function(uint32_t state[8], const unsigned char *bytes, size_t block_count);
sha256_blocks_function sha256_blocks_portable;
sha256_blocks_function sha256_blocks_x86; /* only where sha256_x86_is_supported */
bool sha256_x86_is_supported(void);
extern const uint32_t sha256_round_constants[64];

#endif
