/* What every function of the addon needs: arguments, results, errors, and calls of JavaScript. */
#include "addon.h"

#include <stdlib.h>

void begin(struct call *call, napi_env env, napi_callback_info info) {
    void *instance;
    call->env = env;
    call->argc = MOST_ARGUMENTS; /* what is missing is undefined */
    napi_get_cb_info(env, info, &call->argc, call->argv, NULL, &instance);
    call->instance = instance;
}

/* Returns -1 for what is no number: no table has it, and the library refuses it. */
int64_t int_of(const struct call *call, size_t i) {
    int64_t number;
    return napi_get_value_int64(call->env, call->argv[i], &number) == napi_ok ? number : -1;
}

/* Returns 0, which is no id, for what is no id. */
uint64_t id_of(const struct call *call, size_t i) {
    uint64_t id;
    bool lossless;
    napi_status status = napi_get_value_bigint_uint64(call->env, call->argv[i], &id, &lossless);
    return status == napi_ok && lossless ? id : 0;
}

struct server *server_of(const struct call *call, size_t i) {
    return table_get(&call->instance->servers, int_of(call, i));
}

struct conn *conn_of(const struct call *call, size_t i) {
    return table_get(&call->instance->conns, int_of(call, i));
}

bool bytes_of(const struct call *call, size_t i, void **bytes, size_t *len) {
    bool is_view = false;
    napi_is_buffer(call->env, call->argv[i], &is_view);
    return is_view && napi_get_buffer_info(call->env, call->argv[i], bytes, len) == napi_ok;
}

char *text_of(const struct call *call, size_t i) {
    size_t len;
    char *text;
    if (napi_get_value_string_utf8(call->env, call->argv[i], NULL, 0, &len) != napi_ok)
        return NULL;
    text = malloc(len + 1);
    if (text != NULL)
        napi_get_value_string_utf8(call->env, call->argv[i], text, len + 1, &len);
    return text;
}

napi_value number_value(napi_env env, double number) {
    napi_value value = NULL;
    napi_create_double(env, number, &value);
    return value;
}

napi_value int_value(napi_env env, int64_t number) {
    napi_value value = NULL;
    napi_create_int64(env, number, &value);
    return value;
}

napi_value id_value(napi_env env, uint64_t id) {
    napi_value value = NULL;
    napi_create_bigint_uint64(env, id, &value);
    return value;
}

napi_value text_value(napi_env env, const char *text) {
    napi_value value = NULL;
    napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &value);
    return value;
}

napi_value null_value(napi_env env) {
    napi_value value = NULL;
    napi_get_null(env, &value);
    return value;
}

void set(napi_env env, napi_value object, const char *name, napi_value value) {
    napi_set_named_property(env, object, name, value);
}

/* `errno` is negative, as in Node's own errors. */
napi_value error_value(napi_env env, ns_status status, int32_t os_code, const char *message) {
    napi_value error = NULL;
    napi_create_error(env, text_value(env, ns_status_name(status)), text_value(env, message),
                      &error);
    set(env, error, "status", int_value(env, status));
    if (os_code != 0)
        set(env, error, "errno", int_value(env, -os_code));
    return error;
}

napi_value throw_error(napi_env env, ns_status status, ns_error *error) {
    const char *message = ns_status_message(status);
    if (error != NULL) {
        status = ns_error_status(error);
        message = ns_error_message(error);
    }
    napi_throw(env, error_value(env, status, ns_error_os_code(error), message));
    ns_error_free(error);
    return NULL;
}

/* After a hook failed. The hooks catch what the program's listeners throw, so this was thrown by
 * a microtask or a `nextTick` that ran behind the hook: it goes to 'uncaughtException'. Or the
 * environment is about to end, which shows by no other sign than that nothing can be called. */
static void report_uncaught(struct instance *instance) {
    napi_env env = instance->env;
    napi_value receiver, function, error, ignored;
    bool pending = false;
    napi_is_exception_pending(env, &pending);
    if (pending && napi_get_and_clear_last_exception(env, &error) == napi_ok &&
        napi_get_reference_value(env, instance->receiver, &receiver) == napi_ok &&
        napi_get_reference_value(env, instance->hooks[HOOK_ALIVE], &function) == napi_ok &&
        napi_call_function(env, receiver, function, 0, NULL, &ignored) == napi_ok)
        napi_fatal_exception(env, error);
    else
        instance->closing = true;
}

/* Calls a hook, with the promises and the `nextTick`s that become due. `*result` is the negative
 * number that it returned, else 0. Returns 0 where it could not be called. */
int call_hook(struct instance *instance, napi_async_context async, enum hook hook, size_t argc,
              const napi_value *argv, int32_t *result) {
    napi_env env = instance->env;
    napi_value receiver, function, returned;
    if (result != NULL)
        *result = 0;
    if (instance->closing)
        return 0;
    napi_get_reference_value(env, instance->receiver, &receiver);
    napi_get_reference_value(env, instance->hooks[hook], &function);
    if (napi_make_callback(env, async, receiver, function, argc, argv, &returned) != napi_ok) {
        report_uncaught(instance);
        return 0;
    }
    if (result != NULL && napi_get_value_int32(env, returned, result) != napi_ok)
        *result = 0;
    return 1;
}

/* Calls a hook that runs no code of the program's, and nothing behind it. */
void call_quietly(struct instance *instance, enum hook hook, size_t argc, const napi_value *argv) {
    napi_env env = instance->env;
    napi_value receiver, function, returned;
    if (instance->closing)
        return;
    napi_get_reference_value(env, instance->receiver, &receiver);
    napi_get_reference_value(env, instance->hooks[hook], &function);
    if (napi_call_function(env, receiver, function, argc, argv, &returned) != napi_ok)
        report_uncaught(instance);
}

bool define(napi_env env, napi_value exports, struct instance *instance,
            const struct function *functions, size_t count) {
    size_t i;
    for (i = 0; i < count; i++) {
        napi_value function;
        if (napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].callback,
                                 instance, &function) != napi_ok ||
            napi_set_named_property(env, exports, functions[i].name, function) != napi_ok)
            return false;
    }
    return true;
}
