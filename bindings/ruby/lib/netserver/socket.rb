# frozen_string_literal: true

module Netserver
  # A connection as its callbacks get it, the same object in each.
  #
  # What is listed under "in a callback" works in the callbacks of this connection alone, and raises
  # NotInHandlerError elsewhere. The rest works on any thread at any time.
  class Socket < Connection
    # Anything that the program keeps with the connection, also through detach and attach.
    attr_accessor :data

    def initialize(server, data = nil) # :nodoc:
      super(server, nil)
      @data = data
      @pointer = 0
      @closed = false
    end

    # Closes it: what is queued leaves first. Closing twice is harmless.
    def close
      close_by(:ns_socket_close) { super }
    end

    # Resets it: what is queued is lost.
    def abort
      close_by(:ns_socket_abort) { super }
    end

    def shutdown(how = :write)
      inside? ? check(Library.ns_socket_shutdown(@pointer, HOW.fetch(how))) : super
    end

    def queued
      inside? ? Library.ns_socket_queued(@pointer) : super
    end

    # Whether it is closed.
    def closed?
      @closed || (inside? && Library.ns_socket_is_closed(@pointer) == 1)
    end

    # -- in a callback --------------------------------------------------------------------------

    # Reads at most `maxlen` bytes. Returns them, or nil at the end of the stream. Where nothing can
    # be read now it raises WouldBlock, which is no failure where it leaves the handler, or returns
    # :wait_readable without `exception`. The first call in a handler has something to read.
    def recv(maxlen = Server::BUFFER_SIZE, exception: true)
      buffer = @server.buffer(maxlen)
      length = Library.ns_socket_recv(borrowed, buffer, maxlen)
      return buffer.get_bytes(0, length) if length.positive?
      return nil if length.zero?
      return :wait_readable if length == WouldBlock::STATUS && !exception

      raise Error.of(length, os_code: Library.ns_socket_os_error(@pointer))
    end

    # Reads as `recv` does, and raises EOFError at the end of the stream.
    def readpartial(maxlen)
      recv(maxlen) || raise(EOFError, "end of the stream")
    end

    # Sends immediately what the callback has sent after its first send, which is else gathered.
    def flush
      check(Library.ns_socket_flush(borrowed))
    end

    # No handler call for new input from now on, until `resume`.
    def pause
      check(Library.ns_socket_pause(borrowed))
    end

    # Ends `pause`. Elsewhere: call `wake`, and this in `on_wake`.
    def resume
      check(Library.ns_socket_resume(borrowed))
    end

    # Sets the one-shot timer: the server calls `on_timeout` after so many seconds, and closes the
    # connection where there is none. nil clears it.
    def timer=(seconds)
      time = seconds ? [Settings.milliseconds(seconds), 1].max : 0
      check(Library.ns_socket_set_timer_ms(borrowed, time))
    end

    # The peer's address, "127.0.0.1:4711"; "" where it is not known.
    def peer
      Text.read { |buffer, size| Library.ns_socket_peer(borrowed, buffer, size) }
    end

    # The address of this side.
    def local
      Text.read { |buffer, size| Library.ns_socket_local(borrowed, buffer, size) }
    end

    # The peer's address as an Addrinfo, nil where it is not known.
    def remote_address
      address(:ns_socket_peer_addr)
    end

    # The address of this side as an Addrinfo.
    def local_address
      address(:ns_socket_local_addr)
    end

    # The process, user and group of the peer of a unix socket: [pid, uid, gid].
    def peer_credentials
      FFI::MemoryPointer.new(:uint32, 3) do |place|
        check(Library.ns_socket_peer_credentials(borrowed, place, place + 4, place + 8))
        return [place.get_int32(0), place.get_uint32(4), place.get_uint32(8)]
      end
    end

    # The number of the service that it came by: 0 for that of Server.new, else what
    # Server#add_service returned; nil where it came by none.
    def service
      number = Library.ns_socket_service(borrowed)
      number.negative? ? nil : number
    end

    # The descriptor, for getsockopt and the like: not to read, write or close.
    def fileno
      Library.ns_socket_fd(borrowed)
    end

    # The errno of the failure that ended the connection; 0 for none.
    def os_error
      Library.ns_socket_os_error(borrowed)
    end

    # Goes over to TLS, as the server of the handshake. `ahead` is what was read beyond the client's
    # request. Forget everything else that the client sent before.
    def starttls(tls, ahead: "")
      check(Library.ns_socket_starttls(borrowed, TLS.of(tls).pointer, ahead, ahead.bytesize))
    end

    # What the TLS handshake agreed, a TLSInfo; nil without TLS.
    def tls
      TLSInfo.read(borrowed)
    end

    # Takes the connection out of the server. Returns a DetachedSocket, which is the program's.
    def detach
      pointer = Error.made { |err| Library.ns_detach(@server.pointer, borrowed, err) }
      DetachedSocket.new(pointer, self)
    end

    # -- of the server --------------------------------------------------------------------------

    # Begins a callback: the address is valid until `leave`.
    def enter(pointer) # :nodoc:
      @id ||= Library.ns_socket_id(pointer)
      @pointer = pointer
    end

    def leave # :nodoc:
      @pointer = 0
    end

    def attached(server, id) # :nodoc:
      @server = server
      @id = id
    end

    def ended # :nodoc:
      @closed = true
    end

    private

    # Whether a callback of this connection runs here.
    def inside?
      @pointer != 0 && Thread.current.equal?(@server.thread)
    end

    # The address for a call of a callback.
    def borrowed
      inside? ? @pointer : raise(NotInHandlerError)
    end

    def transmit(bytes)
      return super unless inside?

      status = Library.ns_socket_send(@pointer, bytes, bytes.bytesize)
      check(status) unless status.zero?
    end

    def close_by(function)
      return check(Library.public_send(function, @pointer)) if inside?

      yield unless @closed
    rescue ClosedError # it has ended meanwhile
      nil
    end

    def address(function)
      bytes = Text.bytes(128) { |buffer, size| Library.public_send(function, borrowed, buffer, size) }
      bytes.empty? ? nil : Addrinfo.new(bytes, nil, ::Socket::SOCK_STREAM)
    end
  end
end
