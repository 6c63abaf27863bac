# frozen_string_literal: true

require "ffi"
require_relative "version"

module Netserver
  # The functions of the C library, as netserver.h declares them.
  #
  # Objects of the library are numbers here (:ulong, an address), 0 for none, and so is the user data
  # of a callback (see Table): a number costs nothing to pass. The library answers 0 with
  # NS_ERR_INVALID, so no call needs a look at its object first.
  #
  # The calls keep Ruby's lock, since callbacks run in them and on this thread. Those that may wait
  # without running a handler give it back (`blocking`).
  module Library # :nodoc:
    extend FFI::Library

    # Where the library is: the folder in NETSERVER_LIBRARY_DIR, else where the system looks for
    # libraries, else where pkg-config says that it was installed.
    def self.candidates
      folder = ENV.fetch("NETSERVER_LIBRARY_DIR", "")
      return [File.join(folder, "libnetserver.so")] unless folder.empty?

      soname = "libnetserver.so.#{VERSION[/\d+/]}"
      installed = IO.popen(%w[pkg-config --variable=libdir netserver], err: File::NULL, &:read).strip
      installed.empty? ? [soname] : [soname, File.join(installed, soname)]
    rescue Errno::ENOENT # no pkg-config
      [soname]
    end

    begin
      ffi_lib candidates
    rescue LoadError => e
      raise LoadError, "the netserver library is not installed, and NETSERVER_LIBRARY_DIR does " \
                       "not name its folder (#{e.message})"
    end

    typedef :ulong, :object
    typedef :ulong, :number
    typedef :int32, :status
    typedef :uint64, :id

    [
      [:ns_error_status, [:object], :status],
      [:ns_error_os_code, [:object], :int32],
      [:ns_error_message, [:object], :string],
      [:ns_error_payload, [:object], :number],
      [:ns_error_free, [:object], :void],
      [:ns_status_name, [:status], :string],
      [:ns_status_message, [:status], :string],
      [:ns_close_reason_name, [:int32], :string],
      [:ns_raise_with, %i[object int32 string number pointer], :int32],

      [:ns_config_new, [], :object],
      [:ns_config_free, [:object], :void],
      [:ns_config_set_non_blocking, %i[object int32], :status],
      [:ns_config_set_shutdown_port, %i[object string], :status],
      [:ns_config_set_tls, %i[object object], :status],

      [:ns_server_new, %i[string pointer number pointer object pointer], :object],
      [:ns_server_start, %i[object uint32 pointer], :status],
      [:ns_server_stop_within, %i[object int64], :status],
      [:ns_server_request_stop, [:object], :status],
      [:ns_server_request_quiesce, [:object], :status],
      [:ns_server_poll_fd, [:object], :int32],
      [:ns_server_run_once, %i[object int64], :status],
      [:ns_server_free, [:object], :status],
      [:ns_server_state, [:object], :int32],
      [:ns_server_port, [:object], :uint16],
      [:ns_server_shutdown_port, [:object], :uint16],
      [:ns_server_add_service, %i[object string pointer], :int32],
      [:ns_server_add_service_tls, %i[object string object pointer], :int32],
      [:ns_server_reload_service_tls, %i[object uint32 object pointer], :status],
      [:ns_server_service_address, %i[object uint32 pointer size_t], :size_t],

      [:ns_socket_recv, %i[object pointer size_t], :int64],
      [:ns_socket_send, %i[object buffer_in size_t], :status],
      [:ns_socket_flush, [:object], :status],
      [:ns_socket_shutdown, %i[object int32], :status],
      [:ns_socket_close, [:object], :status],
      [:ns_socket_abort, [:object], :status],
      [:ns_socket_is_closed, [:object], :int32],
      [:ns_socket_id, [:object], :id],
      [:ns_socket_fd, [:object], :int],
      [:ns_socket_service, [:object], :int32],
      [:ns_socket_peer_credentials, %i[object pointer pointer pointer], :status],
      [:ns_socket_queued, [:object], :size_t],
      [:ns_socket_os_error, [:object], :int32],
      [:ns_socket_set_timer_ms, %i[object uint32], :status],
      [:ns_socket_set_io_timeout_ms, %i[object uint32], :status],
      [:ns_socket_pause, [:object], :status],
      [:ns_socket_resume, [:object], :status],
      [:ns_socket_user_data, [:object], :number],
      [:ns_socket_set_user_data, %i[object number pointer], :status],
      [:ns_socket_peer, %i[object pointer size_t], :size_t],
      [:ns_socket_local, %i[object pointer size_t], :size_t],
      [:ns_socket_peer_addr, %i[object pointer size_t], :size_t],
      [:ns_socket_local_addr, %i[object pointer size_t], :size_t],
      [:ns_socket_starttls, %i[object object buffer_in size_t], :status],
      [:ns_socket_tls_info, %i[object pointer size_t], :status],
      [:ns_socket_tls_peer_certificate, %i[object pointer size_t], :size_t],
      [:ns_socket_tls_peer_subject, %i[object pointer size_t], :size_t],

      [:ns_detach, %i[object object pointer], :object],
      [:ns_attach, %i[object object pointer], :id],
      [:ns_socket_cork, [:object], :status],
      [:ns_socket_uncork, [:object], :status],
      [:ns_socket_release_fd, [:object], :int],
      [:ns_socket_from_fd, %i[int pointer], :object],

      [:ns_server_send, %i[object id buffer_in size_t], :status],
      [:ns_server_close, %i[object id], :status],
      [:ns_server_abort, %i[object id], :status],
      [:ns_server_wake, %i[object id], :status],
      [:ns_server_broadcast, %i[object buffer_in size_t buffer_in size_t], :int64],
      [:ns_server_broadcast_each, %i[object buffer_in size_t buffer_in size_t pointer], :int64],
      [:ns_server_queued, %i[object id], :int64],
      [:ns_server_shutdown, %i[object id int32], :status],
      [:ns_server_foreach, %i[object pointer number], :int64],

      [:ns_server_watch, %i[object uint32 int32 uint32 pointer number pointer pointer], :id],
      [:ns_server_watch_change, %i[object id uint32], :status],
      [:ns_server_unwatch, %i[object id], :status],
      [:ns_server_timer, %i[object uint32 uint32 uint32 pointer number pointer pointer], :id],
      [:ns_server_timer_cancel, %i[object id], :status],
      [:ns_server_post, %i[object uint32 pointer number pointer], :status],
      [:ns_server_adopt, %i[object int number pointer pointer], :id],

      [:ns_tls_new, [], :object],
      [:ns_tls_free, [:object], :void],
      [:ns_tls_add_cert_file, %i[object string string string pointer], :status],
      [:ns_tls_add_cert_pem, %i[object string buffer_in size_t buffer_in size_t pointer], :status],
      [:ns_tls_add_cert_der, %i[object string buffer_in buffer_in size_t buffer_in size_t pointer], :status],
      [:ns_tls_set_client_ca_file, %i[object string int32 pointer], :status],
      [:ns_tls_set_client_ca_pem, %i[object buffer_in size_t int32 pointer], :status],
      [:ns_tls_set_alpn, %i[object buffer_in size_t], :status],
      [:ns_tls_set_min_version, %i[object int32], :status],
      [:ns_tls_set_tickets, %i[object int32], :status],
      [:ns_tls_set_session_cache, %i[object size_t], :status],
      [:ns_tls_set_ticket_keys, %i[object buffer_in size_t], :status],

      [:ns_server_stats, %i[object pointer size_t], :status],
      [:ns_server_report, %i[object pointer size_t], :size_t],
      [:ns_server_metrics, %i[object pointer size_t], :size_t],
      [:ns_version_string, [], :string]
    ].each { |function| attach_function(*function) }

    # What frees an object of the library when the program has forgotten it.
    def self.owner(address, free)
      FFI::AutoPointer.new(FFI::Pointer.new(address), ->(pointer) { public_send(free, pointer.address) })
    end

    # Calls that wait and run no handler: of a socket that the program owns, and of a name to resolve.
    attach_function(:owned_recv, :ns_socket_recv, %i[object pointer size_t], :int64, blocking: true)
    attach_function(:owned_flush, :ns_socket_flush, [:object], :status, blocking: true)
    attach_function(:owned_shutdown, :ns_socket_shutdown, %i[object int32], :status, blocking: true)
    attach_function(:owned_starttls, :ns_socket_starttls, %i[object object buffer_in size_t], :status,
                    blocking: true)
    attach_function(:ns_socket_free, [:object], :void, blocking: true)
    attach_function(:ns_server_connect, %i[object string uint32 number pointer pointer], :id, blocking: true)

    unless ns_version_string.start_with?(VERSION[/\A\d+\.\d+\./])
      raise LoadError, "netserver #{VERSION} cannot use the library's version #{ns_version_string}"
    end
  end
end
