/* Unit tests of api/gate.c: each hostile message of reliability's list, and the ordinary ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "api/gate.h"

struct header {
    const char *name, *value;
};

static bool passes(const char *version, const struct header *headers, struct gate *ret_gate)
{
    static const char *const hosts[] = {"pruned.example", NULL};
    struct gate gate = {0};
    struct error error = {0};
    for (size_t i = 0; headers[i].name != NULL; i++) {
        gate_add_header(&gate, headers[i].name, strlen(headers[i].name), headers[i].value,
                        strlen(headers[i].value));
    }
    bool result = gate_finish(&gate, version, hosts, &error);
    assert_true(result == (error.code == ERROR_NONE));
    if (ret_gate != NULL) {
        *ret_gate = gate;
    }
    return result;
}
#define PASSES(...) passes("HTTP/1.1", (const struct header[]){__VA_ARGS__, {NULL, NULL}}, NULL)
#define HOST                                                                                                 \
    {                                                                                                        \
        "Host", "localhost:8080"                                                                             \
    }

static void an_ordinary_request_passes(void **state)
{
    (void)state;
    struct gate gate;
    const struct header headers[] = {
        HOST, {"Content-Length", "17"}, {"Expect", "100-continue"}, {"X-Empty", ""}, {NULL, NULL}};
    assert_true(passes("HTTP/1.1", headers, &gate));
    assert_int_equal(gate.content_length, 17);
    assert_true(gate.expects_continue);
    assert_false(gate.chunked);
    assert_true(PASSES(HOST, {"Transfer-Encoding", "chunked"}));
}

static void messages_that_two_readers_may_read_differently_are_refused(void **state)
{
    (void)state;
    assert_false(PASSES(HOST, {"Content-Length", "5"}, {"Content-Length", "6"}));
    assert_false(PASSES(HOST, {"Content-Length", "5"}, {"content-length", "5"}));
    assert_false(PASSES(HOST, {"Content-Length", "5"}, {"Transfer-Encoding", "chunked"}));
    assert_false(PASSES(HOST, {"Transfer-Encoding", "xchunked"}));
    assert_false(PASSES(HOST, {"Transfer-Encoding", "gzip, chunked"}));
    assert_false(PASSES(HOST, {"Transfer-Encoding", "chunked"}, {"Transfer-Encoding", "chunked"}));
    assert_false(PASSES(HOST, {"Content-Length ", "5"}));
    assert_false(PASSES(HOST, {"Content-Length", "+5"}));
    assert_false(PASSES(HOST, {"Content-Length", "5,5"}));
    assert_false(PASSES(HOST, {"Content-Length", ""}));
    assert_false(PASSES(HOST, {"Content-Length", "18446744073709551616"}));
    assert_false(PASSES(HOST, {"Content-Length", "0x5"}));
    assert_false(PASSES(HOST, HOST));
    assert_false(PASSES(HOST, {"Bad Name", "x"}));
    assert_false(PASSES(HOST, {"", "x"}));
    assert_false(PASSES(HOST, {"X", "a\rb"}));
    assert_false(PASSES(HOST, {"X", "a\x01"}));
    assert_false(PASSES(HOST, {"Expect", "200-ok"}));
}

static void a_value_with_a_nul_is_refused(void **state)
{
    (void)state;
    struct gate gate = {0};
    gate_add_header(&gate, "X", 1, "a\0b", 3);
    assert_false(gate_finish(&gate, "HTTP/1.0", NULL, NULL));
}

static void old_and_future_versions(void **state)
{
    (void)state;
    const struct header none[] = {{NULL, NULL}};
    const struct header chunked[] = {HOST, {"Transfer-Encoding", "chunked"}, {NULL, NULL}};
    assert_true(passes("HTTP/1.0", none, NULL));
    assert_false(passes("HTTP/1.1", none, NULL));
    assert_false(passes("HTTP/1.0", chunked, NULL));
    assert_false(passes("HTTP/1.2", none, NULL));
    assert_false(passes("HTTP/2.0", none, NULL));
}

static void a_name_that_is_not_ours_is_refused_and_an_address_never(void **state)
{
    (void)state;
    assert_true(PASSES({"Host", "LOCALHOST"}));
    assert_true(PASSES({"Host", "localhost."}));
    assert_true(PASSES({"Host", "127.0.0.1:80"}));
    assert_true(PASSES({"Host", "192.168.7.9"}));
    assert_true(PASSES({"Host", "[::1]:80"}));
    assert_true(PASSES({"Host", "Pruned.Example:443"}));
    assert_false(PASSES({"Host", "evil.example"}));
    assert_false(PASSES({"Host", "pruned.example.evil.example"}));
    assert_false(PASSES({"Host", "localhost:99999"}));
    assert_false(PASSES({"Host", "localhost:80x"}));
    assert_false(PASSES({"Host", "user@localhost"}));
    assert_false(PASSES({"Host", "[::1"}));
    assert_false(PASSES({"Host", "[::1]evil"}));
    assert_false(PASSES({"Host", "[evil]"}));
    assert_false(PASSES({"Host", ""}));
    assert_false(PASSES({"Host", "127.1"}));
    assert_false(PASSES({"Host", "0x7f.1"}));
}

static void a_star_allows_every_name(void **state)
{
    (void)state;
    static const char *const all[] = {"*", NULL};
    struct gate gate = {0};
    gate_add_header(&gate, "Host", 4, "anything.example", 16);
    assert_true(gate_finish(&gate, "HTTP/1.1", all, NULL));
}

static void too_many_fields_are_refused(void **state)
{
    (void)state;
    struct gate gate = {0};
    gate_add_header(&gate, "Host", 4, "localhost", 9);
    for (int i = 0; i < 100; i++) {
        gate_add_header(&gate, "X", 1, "y", 1);
    }
    assert_false(gate_finish(&gate, "HTTP/1.1", NULL, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_ordinary_request_passes),
        cmocka_unit_test(messages_that_two_readers_may_read_differently_are_refused),
        cmocka_unit_test(a_value_with_a_nul_is_refused),
        cmocka_unit_test(old_and_future_versions),
        cmocka_unit_test(a_name_that_is_not_ours_is_refused_and_an_address_never),
        cmocka_unit_test(a_star_allows_every_name),
        cmocka_unit_test(too_many_fields_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
