/* The settings: an object of JavaScript whose names are those of the C API in camel case. */
#include "addon.h"

#include <stdlib.h>

/* The library knows three types of numbers. What does not fit into one is no value of any. */
enum type { U32, I32, SIZE };

static const struct setting {
    const char *name;
    enum type type;
    ns_status (*set_u32)(ns_config *, uint32_t);
    ns_status (*set_i32)(ns_config *, int32_t);
    ns_status (*set_size)(ns_config *, size_t);
} settings[] = {
    {"useIpv6", I32, NULL, ns_config_set_use_ipv6, NULL},
    {"reusePort", I32, NULL, ns_config_set_reuse_port, NULL},
    {"unixMode", U32, ns_config_set_unix_mode, NULL, NULL},
    {"maxConnections", U32, ns_config_set_max_connections, NULL, NULL},
    {"maxPerAddress", U32, ns_config_set_max_per_address, NULL, NULL},
    {"acceptRatePerAddress", U32, ns_config_set_accept_rate_per_address, NULL, NULL},
    {"acceptBurstPerAddress", U32, ns_config_set_accept_burst_per_address, NULL, NULL},
    {"ipv4Prefix", U32, ns_config_set_ipv4_prefix, NULL, NULL},
    {"ipv6Prefix", U32, ns_config_set_ipv6_prefix, NULL, NULL},
    {"backlog", U32, ns_config_set_backlog, NULL, NULL},
    {"handshakeTimeout", U32, ns_config_set_handshake_timeout_ms, NULL, NULL},
    {"maxHandshakes", U32, ns_config_set_max_handshakes, NULL, NULL},
    {"idleTimeout", U32, ns_config_set_idle_timeout_ms, NULL, NULL},
    {"writeTimeout", U32, ns_config_set_write_timeout_ms, NULL, NULL},
    {"lingerTimeout", U32, ns_config_set_linger_timeout_ms, NULL, NULL},
    {"drainTimeout", U32, ns_config_set_drain_timeout_ms, NULL, NULL},
    {"keepAlive", U32, ns_config_set_keep_alive_ms, NULL, NULL},
    {"noDelay", I32, NULL, ns_config_set_no_delay, NULL},
    {"highWaterMark", SIZE, NULL, NULL, ns_config_set_high_water_mark},
    {"lowWaterMark", SIZE, NULL, NULL, ns_config_set_low_water_mark},
    {"sendLimit", SIZE, NULL, NULL, ns_config_set_send_limit},
    {"sendLimitTotal", SIZE, NULL, NULL, ns_config_set_send_limit_total},
};

static bool apply(ns_config *config, const struct setting *setting, double value) {
    if (!(value >= 0 && value <= UINT32_MAX && value == (double)(uint32_t)value))
        return false;
    switch (setting->type) {
    case U32: setting->set_u32(config, (uint32_t)value); break;
    case I32: setting->set_i32(config, value > INT32_MAX ? -1 : (int32_t)value); break;
    case SIZE: setting->set_size(config, (size_t)value); break;
    }
    return true; /* what the setter refused ns_server_new reports */
}

static bool number_of(napi_env env, napi_value value, double *number) {
    bool flag;
    if (napi_get_value_bool(env, value, &flag) == napi_ok) {
        *number = flag;
        return true;
    }
    return napi_get_value_double(env, value, number) == napi_ok;
}

/* Returns NULL after throwing: a value is of another type or beyond every bound. */
ns_config *config_of(const struct call *call, size_t i) {
    napi_env env = call->env;
    ns_config *config = ns_config_new();
    size_t n;
    for (n = 0; n < sizeof settings / sizeof *settings; n++) {
        const struct setting *setting = &settings[n];
        bool present = false;
        napi_value value;
        double number;
        napi_has_named_property(env, call->argv[i], setting->name, &present);
        if (!present)
            continue;
        napi_get_named_property(env, call->argv[i], setting->name, &value);
        if (!number_of(env, value, &number) || !apply(config, setting, number)) {
            char message[96];
            snprintf(message, sizeof message, "%s is out of its bounds", setting->name);
            napi_throw(env, error_value(env, NS_ERR_INVALID, 0, message));
            ns_config_free(config);
            return NULL;
        }
    }
    return config;
}

static napi_value setting_names(napi_env env, napi_callback_info info) {
    napi_value names;
    uint32_t n;
    (void)info;
    napi_create_array(env, &names);
    for (n = 0; n < sizeof settings / sizeof *settings; n++)
        napi_set_element(env, names, n, text_value(env, settings[n].name));
    return names;
}

static napi_value status_name(napi_env env, napi_callback_info info) {
    struct call call;
    begin(&call, env, info);
    return text_value(env, ns_status_name((ns_status)int_of(&call, 0)));
}

static napi_value status_message(napi_env env, napi_callback_info info) {
    struct call call;
    begin(&call, env, info);
    return text_value(env, ns_status_message((ns_status)int_of(&call, 0)));
}

static napi_value close_reason_name(napi_env env, napi_callback_info info) {
    struct call call;
    begin(&call, env, info);
    return text_value(env, ns_close_reason_name((int32_t)int_of(&call, 0)));
}

static napi_value version(napi_env env, napi_callback_info info) {
    (void)info;
    return text_value(env, ns_version_string());
}

static napi_value has_feature(napi_env env, napi_callback_info info) {
    struct call call;
    char *name;
    napi_value value;
    begin(&call, env, info);
    name = text_of(&call, 0);
    napi_get_boolean(env, ns_has_feature(name) == 1, &value);
    free(name);
    return value;
}

bool define_config(napi_env env, napi_value exports, struct instance *instance) {
    static const struct function functions[] = {
        {"settingNames", setting_names},     {"statusName", status_name},
        {"statusMessage", status_message},   {"closeReasonName", close_reason_name},
        {"version", version},                {"hasFeature", has_feature},
    };
    return DEFINE(functions);
}
