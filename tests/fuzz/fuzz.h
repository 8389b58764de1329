/* tests/fuzz/fuzz.h: what a fuzz target is; tests/fuzz/meson.build says how one joins. */
#ifndef TESTS_FUZZ_FUZZ_H
#define TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Takes any bytes and returns 0; a fault is an abort or a sanitizer's report. Keeps nothing between calls. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

#endif
