/* workers/process/protocol.c: a stream is cut into the frames that went in, and a broken one is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "workers/process/protocol.h"
#include <string.h>

static void append(struct text *bytes, enum protocol_type type, int64_t epoch)
{
    JSON_OWNED message = protocol_message(type);
    json_put_i64(message, "epoch", epoch);
    struct error error;
    assert_true(protocol_append_frame(bytes, message, &error));
}

static void frames_come_out_as_they_went_in_however_the_stream_is_cut(void **state)
{
    (void)state;
    FINISHED(text) stream = {0};
    for (int64_t i = 0; i < 20; i++) {
        append(&stream, i % 2 == 0 ? PROTOCOL_STAGE : PROTOCOL_HEARTBEAT, i);
    }
    for (size_t piece = 1; piece < stream.length; piece += 7) {
        struct protocol_reader reader = {0};
        int64_t next = 0;
        for (size_t at = 0; at < stream.length; at += piece) {
            size_t rest = stream.length - at;
            protocol_reader_feed(&reader, stream.bytes + at, rest < piece ? rest : piece);
            for (;;) {
                JSON_OWNED message = NULL;
                enum protocol_type type = PROTOCOL_JOB;
                struct error error;
                assert_true(protocol_reader_next(&reader, &message, &type, &error));
                if (message == NULL) {
                    break;
                }
                assert_int_equal(type, next % 2 == 0 ? PROTOCOL_STAGE : PROTOCOL_HEARTBEAT);
                assert_int_equal(json_integer_value(json_object_get(message, "epoch")), next);
                next++;
            }
        }
        assert_int_equal(next, 20);
        protocol_reader_finish(&reader);
    }
}

static void refuses(const void *bytes, size_t count)
{
    struct protocol_reader reader = {0};
    JSON_OWNED message = NULL;
    enum protocol_type type = PROTOCOL_JOB;
    struct error error = {0};
    protocol_reader_feed(&reader, bytes, count);
    assert_false(protocol_reader_next(&reader, &message, &type, &error));
    assert_int_equal(error.code, ERROR_CORRUPT_FILE);
    assert_null(message);
    protocol_reader_finish(&reader);
}

static void a_length_over_the_limit_is_refused_before_its_body_is_awaited(void **state)
{
    (void)state;
    refuses("\xff\xff\xff\xff", 4);
    refuses("\x01\x00\x00\x04", 4); /* one byte over 64 MiB */
}

static void a_body_that_is_no_object_with_a_known_type_is_refused(void **state)
{
    (void)state;
    refuses("\x02\x00\x00\x00{]", 6);
    refuses("\x02\x00\x00\x00{}", 6);
    refuses("\x02\x00\x00\x00[]", 6);
    refuses("\x0f\x00\x00\x00{\"type\":\"shrug\"}", 4 + 15);
    refuses("\x0a\x00\x00\x00{\"type\":1}", 4 + 10);
}

static void every_type_has_a_word_that_reads_back(void **state)
{
    (void)state;
    for (int i = PROTOCOL_JOB; i <= PROTOCOL_DRAINED; i++) {
        enum protocol_type type = PROTOCOL_JOB;
        assert_true(protocol_type_parse(protocol_type_slug((enum protocol_type)i), &type));
        assert_int_equal(type, i);
    }
    enum protocol_type type;
    assert_false(protocol_type_parse("", &type));
}

int main(void)
{
    json_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_come_out_as_they_went_in_however_the_stream_is_cut),
        cmocka_unit_test(a_length_over_the_limit_is_refused_before_its_body_is_awaited),
        cmocka_unit_test(a_body_that_is_no_object_with_a_known_type_is_refused),
        cmocka_unit_test(every_type_has_a_word_that_reads_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
