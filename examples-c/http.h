/* A strict parser for the heads of requests of HTTP/1.1, of which the content is refused: RFC 9112,
 * whose sections are given. It copies nothing. */
#ifndef EXAMPLES_HTTP_H
#define EXAMPLES_HTTP_H

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HTTP_BAD "400 Bad Request"

struct text {
    const char *at;
    size_t len;
};

struct request {
    struct text method, target;
    int minor;                     /* of the version 1.x */
    int hosts, lengths, encodings; /* fields of that name */
    int closes, keeps;             /* what the client wants of the connection */
    int has_content;
};

static inline int is(struct text text, const char *other) {
    return text.len == strlen(other) && strncasecmp(text.at, other, text.len) == 0;
}

/* For what tells upper case from lower case: methods (RFC 9110, 9.1). */
static inline int is_exactly(struct text text, const char *other) {
    return text.len == strlen(other) && memcmp(text.at, other, text.len) == 0;
}

/* Takes the characters up to `end`, which must come. Returns 0 if it does not. */
static inline int take_until(struct text *from, char end, struct text *taken) {
    const char *found = (const char *)memchr(from->at, end, from->len);
    if (found == NULL)
        return 0;
    taken->at = from->at, taken->len = (size_t)(found - from->at);
    from->at = found + 1, from->len -= taken->len + 1;
    return 1;
}

/* Whether all characters are those of a token (RFC 9110, 5.6.2). */
static inline int is_token(struct text text) {
    static const char allowed[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
                                  "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    size_t i = 0;
    while (i < text.len && memchr(allowed, text.at[i], sizeof allowed - 1) != NULL)
        i++;
    return i > 0 && i == text.len;
}

static inline struct text trim(struct text text) {
    for (; text.len > 0 && (*text.at == ' ' || *text.at == '\t'); text.len--)
        text.at++;
    while (text.len > 0 && (text.at[text.len - 1] == ' ' || text.at[text.len - 1] == '\t'))
        text.len--;
    return text;
}

/* 3: the first line. As the functions below, it returns NULL or the status of a refusal. */
static inline const char *read_request_line(struct text line, struct request *request) {
    size_t i;
    if (!take_until(&line, ' ', &request->method) || !is_token(request->method) ||
        !take_until(&line, ' ', &request->target))
        return HTTP_BAD;
    for (i = 0; i < request->target.len; i++)
        if (request->target.at[i] <= ' ' || request->target.at[i] == 127)
            return HTTP_BAD;
    if (line.len != 8 || memcmp(line.at, "HTTP/", 5) != 0 || line.at[6] != '.')
        return HTTP_BAD;
    request->minor = line.at[7] - '0';
    return line.at[5] == '1' && request->minor >= 0 && request->minor <= 9
               ? NULL
               : "505 HTTP Version Not Supported";
}

/* 5: a field. */
static inline const char *read_field(struct text line, struct request *request) {
    struct text name, value, word;
    size_t i;
    if (!take_until(&line, ':', &name) || !is_token(name)) /* also a folded line (5.2) */
        return HTTP_BAD;
    value = trim(line);
    for (i = 0; i < value.len; i++)
        if (((unsigned char)value.at[i] < ' ' && value.at[i] != '\t') || value.at[i] == 127)
            return HTTP_BAD;
    if (is(name, "Host")) {
        request->hosts++;
        for (i = 0; i < value.len; i++) /* no user, path, query or space (RFC 3986, 3.2.2) */
            if (memchr(" \t\"#/<>?@\\^`{|}", value.at[i], 15) != NULL)
                return HTTP_BAD;
    }
    request->encodings += is(name, "Transfer-Encoding");
    if (is(name, "Expect") && !is(value, "100-continue"))
        return "417 Expectation Failed";
    if (is(name, "Content-Length")) {
        for (i = 0; i < value.len; i++) {
            if (value.at[i] < '0' || value.at[i] > '9')
                return HTTP_BAD;
            request->has_content |= value.at[i] != '0';
        }
        return i == 0 || ++request->lengths > 1 ? HTTP_BAD : NULL;
    }
    while (is(name, "Connection") && value.len > 0) {
        if (!take_until(&value, ',', &word))
            word = value, value.len = 0;
        request->closes |= is(trim(word), "close");
        request->keeps |= is(trim(word), "keep-alive");
    }
    return NULL;
}

/* Reads a whole head, in which every line ends with CR and LF. */
static inline const char *read_head(struct text head, struct request *request) {
    struct text line;
    const char *status = NULL;
    int count = 0;
    memset(request, 0, sizeof *request);
    for (; status == NULL && take_until(&head, '\n', &line) && line.len > 1; count++) {
        line.len--;
        status = count == 0 ? read_request_line(line, request) : read_field(line, request);
    }
    if (status != NULL)
        return status;
    if (request->hosts > 1 || (request->hosts == 0 && request->minor > 0)) /* 3.2 */
        return HTTP_BAD;
    if (request->encodings > 0) /* 6.1 */
        return request->lengths > 0 || request->minor == 0 ? HTTP_BAD : "501 Not Implemented";
    return request->has_content ? "413 Content Too Large" : NULL;
}

/* Returns the length of the head with its empty line; 0 if that has not come; -1 if a line does not
 * end with CR and LF (2.2). */
static inline int head_length(const char *head, size_t len) {
    const char *line = head, *end;
    while ((end = (const char *)memchr(line, '\n', len - (size_t)(line - head))) != NULL) {
        if (end == line || end[-1] != '\r')
            return -1;
        if (end == line + 1)
            return (int)(end + 1 - head);
        line = end + 1;
    }
    return 0;
}

#endif
