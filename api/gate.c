/* api/gate.c: see gate.h. */
#include "api/gate.h"
#include "base/text.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define GATE_HEADER_LIMIT 100

/* RFC 9110 token: what a field name may be made of. A space before the colon ends up in the name, and fails
 * here. */
static bool is_token_byte(unsigned char byte)
{
    return isalnum(byte) || (byte != '\0' && strchr("!#$%&'*+-.^_`|~", byte) != NULL);
}

static void set_fault(struct gate *gate, const char *field, const char *message)
{
    if (gate->fault.code == ERROR_NONE) {
        (void)error_set_field(&gate->fault, ERROR_INVALID_ARGUMENT, field, "%s", message);
    }
}

static bool name_is(const char *name, size_t length, const char *wanted)
{
    return length == strlen(wanted) && strncasecmp(name, wanted, length) == 0;
}

static void add_content_length(struct gate *gate, const char *value, size_t length)
{
    gate->length_count++;
    if (!text_parse_u64(value, length, &gate->content_length)) {
        set_fault(gate, "Content-Length", "Content-Length must be decimal digits only");
    }
}

static void add_host(struct gate *gate, const char *value, size_t length)
{
    gate->host_count++;
    if (length >= sizeof gate->host) {
        set_fault(gate, "Host", "Host is longer than 255 bytes");
        return;
    }
    memcpy(gate->host, value, length);
    gate->host[length] = '\0';
}

void gate_add_header(struct gate *gate, const char *name, size_t name_length, const char *value,
                     size_t value_length)
{
    if (++gate->header_count > GATE_HEADER_LIMIT) {
        set_fault(gate, "header", "more than 100 header fields");
        return;
    }
    bool is_token = name_length > 0;
    for (size_t i = 0; i < name_length; i++) {
        is_token = is_token && is_token_byte((unsigned char)name[i]);
    }
    if (!is_token) {
        set_fault(gate, "header", "a header field name holds a byte that is not a token character");
        return;
    }
    for (size_t i = 0; i < value_length; i++) {
        unsigned char byte = (unsigned char)value[i];
        if ((byte < 0x20 && byte != '\t') || byte == 0x7f) {
            set_fault(gate, "header", "a header field value holds a control character");
            return;
        }
    }
    if (name_is(name, name_length, "content-length")) {
        add_content_length(gate, value, value_length);
    } else if (name_is(name, name_length, "transfer-encoding")) {
        gate->encoding_count++;
        gate->chunked = name_is(value, value_length, "chunked");
        if (!gate->chunked) {
            set_fault(gate, "Transfer-Encoding", "the only Transfer-Encoding understood is chunked");
        }
    } else if (name_is(name, name_length, "host")) {
        add_host(gate, value, value_length);
    } else if (name_is(name, name_length, "expect")) {
        gate->expects_continue = name_is(value, value_length, "100-continue");
        if (!gate->expects_continue) {
            set_fault(gate, "Expect", "the only expectation understood is 100-continue");
        }
    }
}

bool gate_parse_host(const char *host, char *ret_name, size_t capacity, bool *ret_is_address)
{
    const char *end = NULL, *start = host;
    if (host[0] == '[') {
        start = host + 1;
        end = strchr(start, ']');
        if (end == NULL || (end[1] != '\0' && end[1] != ':')) {
            return false;
        }
    } else {
        end = host + strcspn(host, ":");
    }
    const char *port = host[0] == '[' ? end + 1 : end;
    uint64_t port_number = 0;
    if (*port == ':' && port[1] != '\0' &&
        (!text_parse_u64(port + 1, strlen(port + 1), &port_number) || port_number > 65535)) {
        return false;
    }
    size_t length = (size_t)(end - start);
    if (host[0] != '[' && length > 1 && start[length - 1] == '.') {
        length--;
    }
    if (length == 0 || length >= capacity) {
        return false;
    }
    char name[256];
    if (length >= sizeof name) {
        return false;
    }
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)start[i];
        if (!isalnum(byte) && strchr(host[0] == '[' ? ":." : "-._", byte) == NULL) {
            return false;
        }
        name[i] = (char)tolower(byte);
    }
    name[length] = '\0';
    struct in_addr v4;
    struct in6_addr v6;
    bool is_address =
        host[0] == '[' ? inet_pton(AF_INET6, name, &v6) == 1 : inet_pton(AF_INET, name, &v4) == 1;
    if (host[0] == '[' && !is_address) {
        return false;
    }
    memcpy(ret_name, name, length + 1);
    *ret_is_address = is_address;
    return true;
}

static bool host_is_allowed(const char *host, const char *const *hosts)
{
    char name[256];
    bool is_address = false;
    if (!gate_parse_host(host, name, sizeof name, &is_address)) {
        return false;
    }
    if (is_address || strcmp(name, "localhost") == 0) {
        return true;
    }
    for (size_t i = 0; hosts != NULL && hosts[i] != NULL; i++) {
        if (strcmp(hosts[i], "*") == 0 || strcasecmp(hosts[i], name) == 0) {
            return true;
        }
    }
    return false;
}

bool gate_finish(struct gate *gate, const char *version, const char *const *hosts, struct error *error)
{
    bool is_old = strcmp(version, "HTTP/1.0") == 0;
    if (!is_old && strcmp(version, "HTTP/1.1") != 0) {
        set_fault(gate, "version", "only HTTP/1.0 and HTTP/1.1 are spoken here");
    }
    if (gate->length_count > 1) {
        set_fault(gate, "Content-Length", "Content-Length is given more than once");
    }
    if (gate->encoding_count > 1) {
        set_fault(gate, "Transfer-Encoding", "Transfer-Encoding is given more than once");
    }
    if (gate->encoding_count > 0 && (gate->length_count > 0 || is_old)) {
        set_fault(gate, "Transfer-Encoding",
                  "Transfer-Encoding cannot stand beside Content-Length, nor in HTTP/1.0");
    }
    if (gate->host_count > 1) {
        set_fault(gate, "Host", "Host is given more than once");
    }
    if (gate->host_count == 0 && !is_old) {
        set_fault(gate, "Host", "Host is missing");
    }
    if (gate->host_count == 1 && gate->fault.code == ERROR_NONE && !host_is_allowed(gate->host, hosts)) {
        (void)error_set_field(&gate->fault, ERROR_INVALID_ARGUMENT, "Host",
                              "this service does not answer to the name \"%s\"; add it to the allowed hosts",
                              gate->host);
    }
    if (gate->fault.code != ERROR_NONE) {
        if (error != NULL) {
            *error = gate->fault;
        }
        return false;
    }
    return true;
}
