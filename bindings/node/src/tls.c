/* TLS objects, which the garbage collector owns, and TLS on a connection. */
#include "addon.h"

#include <stdlib.h>

/* Marks the objects that are ours: no other external value is taken for one. */
static const napi_type_tag tag = {0x6e65747365727665, 0x722d746c73000001};

static void free_tls(napi_env env, void *tls, void *hint) {
    (void)env, (void)hint;
    ns_tls_free(tls);
}

static napi_value tls_new(napi_env env, napi_callback_info info) {
    ns_tls *tls = ns_tls_new();
    napi_value object;
    (void)info;
    napi_create_object(env, &object);
    napi_wrap(env, object, tls, free_tls, NULL, NULL);
    napi_type_tag_object(env, object, &tag);
    return object;
}

ns_tls *tls_of(const struct call *call, size_t i) {
    napi_valuetype type = napi_undefined;
    void *tls = NULL;
    bool ours = false;
    napi_typeof(call->env, call->argv[i], &type);
    if (type == napi_object &&
        napi_check_object_type_tag(call->env, call->argv[i], &tag, &ours) == napi_ok && ours)
        napi_unwrap(call->env, call->argv[i], &tls);
    return tls;
}

static napi_value done(napi_env env, ns_status status, ns_error *error) {
    return status < 0 ? throw_error(env, status, error) : NULL;
}

/* tlsAddCertFile(tls, serverName, chainFile, keyFile) */
static napi_value add_cert_file(napi_env env, napi_callback_info info) {
    struct call call;
    ns_error *error = NULL;
    ns_status status;
    char *name, *chain, *key;
    begin(&call, env, info);
    name = text_of(&call, 1), chain = text_of(&call, 2), key = text_of(&call, 3);
    status = ns_tls_add_cert_file(tls_of(&call, 0), name, chain, key, &error);
    free(name), free(chain), free(key);
    return done(env, status, error);
}

/* tlsAddCertPem(tls, serverName, chain, key) */
static napi_value add_cert_pem(napi_env env, napi_callback_info info) {
    struct call call;
    ns_error *error = NULL;
    ns_status status;
    void *chain = NULL, *key = NULL;
    size_t chain_len = 0, key_len = 0;
    char *name;
    begin(&call, env, info);
    bytes_of(&call, 2, &chain, &chain_len);
    bytes_of(&call, 3, &key, &key_len);
    name = text_of(&call, 1);
    status = ns_tls_add_cert_pem(tls_of(&call, 0), name, chain, chain_len, key, key_len, &error);
    free(name);
    return done(env, status, error);
}

#define MOST_CERTIFICATES 100

/* tlsAddCertDer(tls, serverName, [certificate, …], key) */
static napi_value add_cert_der(napi_env env, napi_callback_info info) {
    struct call call;
    ns_error *error = NULL;
    ns_status status;
    const void *chain[MOST_CERTIFICATES];
    size_t lens[MOST_CERTIFICATES], key_len = 0;
    uint32_t count = 0, i;
    void *key = NULL;
    char *name;
    begin(&call, env, info);
    if (napi_get_array_length(env, call.argv[2], &count) != napi_ok || count > MOST_CERTIFICATES)
        return throw_error(env, NS_ERR_INVALID, NULL);
    for (i = 0; i < count; i++) {
        struct call element = {.env = env};
        void *bytes;
        napi_get_element(env, call.argv[2], i, &element.argv[0]);
        if (!bytes_of(&element, 0, &bytes, &lens[i]))
            return throw_error(env, NS_ERR_INVALID, NULL);
        chain[i] = bytes;
    }
    bytes_of(&call, 3, &key, &key_len);
    name = text_of(&call, 1);
    status = ns_tls_add_cert_der(tls_of(&call, 0), name, chain, lens, count, key, key_len, &error);
    free(name);
    return done(env, status, error);
}

/* tlsSetClientCa(tls, file or bytes, required) */
static napi_value set_client_ca(napi_env env, napi_callback_info info) {
    struct call call;
    ns_error *error = NULL;
    ns_status status;
    bool required = true;
    void *pem;
    size_t len;
    char *file;
    begin(&call, env, info);
    napi_get_value_bool(env, call.argv[2], &required);
    file = text_of(&call, 1);
    if (file != NULL)
        status = ns_tls_set_client_ca_file(tls_of(&call, 0), file, required, &error);
    else if (bytes_of(&call, 1, &pem, &len))
        status = ns_tls_set_client_ca_pem(tls_of(&call, 0), pem, len, required, &error);
    else
        status = NS_ERR_INVALID;
    free(file);
    return done(env, status, error);
}

#define MOST_PROTOCOLS 1024

/* tlsSetAlpn(tls, [name, …]) */
static napi_value set_alpn(napi_env env, napi_callback_info info) {
    struct call call;
    char *names[MOST_PROTOCOLS];
    uint32_t count = 0, i;
    ns_status status = NS_OK;
    begin(&call, env, info);
    if (napi_get_array_length(env, call.argv[1], &count) != napi_ok || count > MOST_PROTOCOLS)
        return throw_error(env, NS_ERR_INVALID, NULL);
    for (i = 0; i < count; i++) {
        struct call element = {.env = env};
        napi_get_element(env, call.argv[1], i, &element.argv[0]);
        names[i] = text_of(&element, 0); /* NULL: the library refuses it */
    }
    status = ns_tls_set_alpn(tls_of(&call, 0), (const char *const *)names, count);
    for (i = 0; i < count; i++)
        free(names[i]);
    return done(env, status, NULL);
}

/* tlsSet(tls, setting, value) */
static napi_value tls_set(napi_env env, napi_callback_info info) {
    struct call call;
    ns_tls *tls;
    int64_t value;
    ns_status status;
    begin(&call, env, info);
    tls = tls_of(&call, 0);
    value = int_of(&call, 2);
    switch (int_of(&call, 1)) {
    case 0: status = ns_tls_set_min_version(tls, (int32_t)value); break;
    case 1: status = ns_tls_set_tickets(tls, (int32_t)value); break;
    case 2: status = ns_tls_set_session_cache(tls, (size_t)value); break;
    default: status = NS_ERR_INVALID;
    }
    return done(env, status, NULL);
}

/* tlsSetTicketKeys(tls, bytes): returns a status. */
static napi_value set_ticket_keys(napi_env env, napi_callback_info info) {
    struct call call;
    void *keys = NULL;
    size_t len = 0;
    begin(&call, env, info);
    bytes_of(&call, 1, &keys, &len);
    return int_value(env, ns_tls_set_ticket_keys(tls_of(&call, 0), keys, len));
}

/* starttls(number, tls, ahead): returns a status. */
static napi_value starttls(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    void *ahead = NULL;
    size_t len = 0;
    begin(&call, env, info);
    conn = conn_of(&call, 0);
    if (conn == NULL || conn->current == NULL)
        return int_value(env, conn == NULL ? NS_ERR_CLOSED : NS_ERR_NOT_IN_HANDLER);
    bytes_of(&call, 2, &ahead, &len);
    return int_value(env, ns_socket_starttls(conn->current, tls_of(&call, 1), ahead, len));
}

static napi_value certificate_value(napi_env env, ns_socket *socket) {
    size_t len = ns_socket_tls_peer_certificate(socket, NULL, 0);
    napi_value buffer = NULL;
    void *bytes;
    if (len == 0 || napi_create_buffer(env, len, &bytes, &buffer) != napi_ok)
        return null_value(env);
    ns_socket_tls_peer_certificate(socket, bytes, len);
    return buffer;
}

static napi_value subject_value(napi_env env, ns_socket *socket) {
    size_t len = ns_socket_tls_peer_subject(socket, NULL, 0);
    char *text = len == 0 ? NULL : malloc(len + 1);
    napi_value value;
    if (text == NULL)
        return null_value(env);
    ns_socket_tls_peer_subject(socket, text, len + 1);
    value = text_value(env, text);
    free(text);
    return value;
}

static napi_value text_or_null(napi_env env, const char *text) {
    return *text == '\0' ? null_value(env) : text_value(env, text);
}

/* tlsInfo(number): what the handshake agreed; null where there is no TLS, or not yet. */
static napi_value tls_info(napi_env env, napi_callback_info info) {
    struct call call;
    struct conn *conn;
    ns_tls_info agreed;
    napi_value object, resumed;
    begin(&call, env, info);
    conn = conn_of(&call, 0);
    if (conn == NULL || conn->current == NULL ||
        ns_socket_tls_info(conn->current, &agreed, sizeof agreed) != NS_OK)
        return null_value(env);
    napi_create_object(env, &object);
    napi_get_boolean(env, agreed.resumed == 1, &resumed);
    set(env, object, "version",
        text_value(env, agreed.version == NS_TLS_1_3 ? "TLSv1.3" : "TLSv1.2"));
    set(env, object, "resumed", resumed);
    set(env, object, "cipher", text_value(env, agreed.cipher_suite));
    set(env, object, "alpnProtocol", text_or_null(env, agreed.alpn));
    set(env, object, "servername", text_or_null(env, agreed.server_name));
    set(env, object, "peerCertificate", certificate_value(env, conn->current));
    set(env, object, "peerSubject", subject_value(env, conn->current));
    return object;
}

bool define_tls(napi_env env, napi_value exports, struct instance *instance) {
    static const struct function functions[] = {
        {"tlsNew", tls_new},
        {"tlsAddCertFile", add_cert_file},
        {"tlsAddCertPem", add_cert_pem},
        {"tlsAddCertDer", add_cert_der},
        {"tlsSetClientCa", set_client_ca},
        {"tlsSetAlpn", set_alpn},
        {"tlsSet", tls_set},
        {"tlsSetTicketKeys", set_ticket_keys},
        {"starttls", starttls},
        {"tlsInfo", tls_info},
    };
    return DEFINE(functions);
}
