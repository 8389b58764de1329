/* tests/unit/base/memory_test.c: host memory, arenas and owned locals. */
#include "base/arena.h"
#include "base/cleanup.h"
#include "base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static void created_memory_is_zero_even_for_no_items(void **state)
{
    (void)state;
    OWNED_MEMORY uint64_t *numbers = memory_create(1000, sizeof *numbers);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(numbers[i], 0);
    }
    OWNED_MEMORY void *nothing = memory_create(0, 8);
    assert_non_null(nothing);
}

static void resizing_keeps_the_content(void **state)
{
    (void)state;
    char *bytes = memory_create(4, 1);
    memcpy(bytes, "abc", 4);
    bytes = memory_resize(bytes, 100000, 1);
    assert_string_equal(bytes, "abc");
    bytes = memory_resize(bytes, 0, 1);
    assert_non_null(bytes);
    free(bytes);
}

static void copying_no_text_gives_none(void **state)
{
    (void)state;
    assert_null(memory_copy_text(NULL));
    OWNED_MEMORY char *copy = memory_copy_text("abc");
    assert_string_equal(copy, "abc");
}

static void a_big_array_is_aligned_and_zero(void **state)
{
    (void)state;
    static const size_t counts[] = {0, 1, 15, 16, 17, 4099};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct error error = {0};
        OWNED_MEMORY float *array = memory_try_array(counts[i], sizeof *array, "scores", &error);
        assert_non_null(array);
        assert_int_equal((uintptr_t)array % 64, 0);
        for (size_t j = 0; j < counts[i]; j++) {
            assert_true(array[j] >= 0.0F && array[j] <= 0.0F);
        }
    }
}

static void an_impossible_array_names_what_it_was_for(void **state)
{
    (void)state;
    static const size_t counts[] = {SIZE_MAX, SIZE_MAX / 4 + 1, (size_t)PTRDIFF_MAX / 4};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        struct error error = {0};
        assert_null(memory_try_array(counts[i], 4, "gram matrix of layer 3", &error));
        assert_int_equal(error.code, ERROR_OUT_OF_MEMORY);
        assert_non_null(strstr(error.message, "gram matrix of layer 3"));
    }
}

static void arena_objects_are_aligned_zero_and_apart(void **state)
{
    (void)state;
    OWNED(arena) arena = arena_create(0);
    unsigned char *objects[2000];
    for (size_t i = 0; i < 2000; i++) {
        size_t bytes = i % 97 + (i % 500 == 0 ? 100000 : 0);
        objects[i] = arena_allocate(arena, bytes, 1);
        assert_int_equal((uintptr_t)objects[i] % 16, 0);
        for (size_t j = 0; j < bytes; j++) {
            assert_int_equal(objects[i][j], 0);
        }
        memset(objects[i], (int)(i % 251) + 1, bytes);
    }
    for (size_t i = 0; i < 2000; i++) {
        for (size_t j = 0; j < i % 97; j++) {
            assert_int_equal(objects[i][j], i % 251 + 1);
        }
    }
}

static void an_arena_refuses_past_its_limit_and_goes_on(void **state)
{
    (void)state;
    OWNED(arena) arena = arena_create(1000);
    assert_non_null(arena_allocate(arena, 1, 900));
    assert_null(arena_allocate(arena, 1, 200));
    assert_null(arena_allocate(arena, SIZE_MAX, 2));
    assert_null(arena_allocate(arena, SIZE_MAX, 1));
    assert_non_null(arena_allocate(arena, 5, 16));
    assert_null(arena_allocate(arena, 1, 16));
    assert_null(arena_copy_text(arena, "abc", 3));
}

static void an_arena_copies_text_with_its_end(void **state)
{
    (void)state;
    OWNED(arena) arena = arena_create(0);
    char *copy = arena_copy_text(arena, "abcdef", 3);
    assert_string_equal(copy, "abc");
    assert_string_equal(arena_copy_text(arena, "", 0), "");
    arena_destroy(NULL);
}

static void taking_leaves_the_owner_empty(void **state)
{
    (void)state;
    OWNED_MEMORY char *text = memory_copy_text("abc");
    char *taken = TAKE(text);
    assert_null(text);
    assert_string_equal(taken, "abc");
    free(taken);
}

/* Overflow without a limit is a programming error: the process ends, in a child so that the test can look. */
static void an_overflow_without_a_limit_aborts(void **state)
{
    (void)state;
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        (void)close(STDERR_FILENO);
        void *pointer = memory_resize(NULL, SIZE_MAX, 2);
        _exit(pointer != NULL ? 1 : 2);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(created_memory_is_zero_even_for_no_items),
        cmocka_unit_test(resizing_keeps_the_content),
        cmocka_unit_test(copying_no_text_gives_none),
        cmocka_unit_test(a_big_array_is_aligned_and_zero),
        cmocka_unit_test(an_impossible_array_names_what_it_was_for),
        cmocka_unit_test(arena_objects_are_aligned_zero_and_apart),
        cmocka_unit_test(an_arena_refuses_past_its_limit_and_goes_on),
        cmocka_unit_test(an_arena_copies_text_with_its_end),
        cmocka_unit_test(taking_leaves_the_owner_empty),
        cmocka_unit_test(an_overflow_without_a_limit_aborts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
