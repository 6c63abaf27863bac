"""The declarations of the C API that the Python programs need, by ctypes alone."""

import ctypes
from ctypes import CFUNCTYPE, POINTER
from ctypes import c_char_p, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p

NS_START_BACKGROUND = 1
NS_START_HOSTED = 2
NS_ERR_STATE = -1002
NS_ERR_TIMEOUT = -1003

HANDLER = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p)
EXCEPTION = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p, c_void_p)
EVENT = CFUNCTYPE(c_int32, c_void_p, c_void_p, c_void_p)

PROTOTYPES = {
    "ns_config_new": (c_void_p,),
    "ns_config_free": (None, c_void_p),
    "ns_config_set_non_blocking": (c_int32, c_void_p, c_int32),
    "ns_config_set_max_thread": (c_int32, c_void_p, c_uint32),
    "ns_config_set_exception_handler": (c_int32, c_void_p, EXCEPTION, c_void_p, c_void_p),
    "ns_config_set_on_wake": (c_int32, c_void_p, EVENT, c_void_p, c_void_p),
    "ns_config_set_idle_timeout_ms": (c_int32, c_void_p, c_uint32),
    "ns_config_set_tls": (c_int32, c_void_p, c_void_p),
    "ns_tls_new": (c_void_p,),
    "ns_tls_free": (None, c_void_p),
    "ns_tls_add_cert_file": (
        c_int32, c_void_p, c_char_p, c_char_p, c_char_p, POINTER(c_void_p)
    ),
    "ns_server_new": (c_void_p, c_char_p, HANDLER, c_void_p, c_void_p, c_void_p, POINTER(c_void_p)),
    "ns_server_start": (c_int32, c_void_p, c_uint32, POINTER(c_void_p)),
    "ns_server_request_stop": (c_int32, c_void_p),
    "ns_server_poll_fd": (c_int32, c_void_p),
    "ns_server_run_once": (c_int32, c_void_p, c_int64),
    "ns_server_wake": (c_int32, c_void_p, c_uint64),
    "ns_server_wait": (c_int32, c_void_p, c_int64),
    "ns_server_free": (c_int32, c_void_p),
    "ns_server_address": (c_size_t, c_void_p, c_char_p, c_size_t),
    "ns_server_report": (c_size_t, c_void_p, c_char_p, c_size_t),
    "ns_socket_id": (c_uint64, c_void_p),
    "ns_socket_recv": (c_int64, c_void_p, c_char_p, c_size_t),
    "ns_socket_send": (c_int32, c_void_p, c_char_p, c_size_t),
    "ns_socket_close": (c_int32, c_void_p),
    "ns_raise": (c_int32, c_void_p, c_int32, c_char_p),
    "ns_error_message": (c_char_p, c_void_p),
    "ns_error_free": (None, c_void_p),
    "ns_status_name": (c_char_p, c_int32),
}


def load(path):
    library = ctypes.CDLL(path)  # releases Python's lock while it is in the library
    for name, (result, *arguments) in PROTOTYPES.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
    return library


def text(function, server):
    """What a function that fills a buffer as snprintf does has to say."""
    buffer = ctypes.create_string_buffer(function(server, None, 0) + 1)
    function(server, buffer, len(buffer))
    return buffer.value.decode()
