# frozen_string_literal: true

module Netserver
  # A connection that the program owns: what Socket#detach returns, or DetachedSocket.from. It is used
  # by one thread or fiber at a time, and its calls wait. Other threads run meanwhile, and so do other
  # fibers under a fiber scheduler; an exception of another thread ends the wait.
  class DetachedSocket
    # At most so many bytes are sent at once: fewer than what the library gathers.
    PIECE = 32 * 1024
    private_constant :PIECE

    # Makes one of a connected stream socket of the program's: the IO is closed.
    def self.from(io)
      copy = io.to_io.dup
      pointer = Error.made { |err| Library.ns_socket_from_fd(copy.fileno, err) }
      copy.autoclose = false
      io.close
      socket = Socket.new(nil)
      Library.ns_socket_set_user_data(pointer, Table.add(socket), Table::DROP)
      new(pointer, socket)
    rescue Error
      copy.close
      raise
    end

    # How many seconds a call may wait before it raises TimeoutError; nil (default): any time. After
    # that in `write` an unknown part was sent.
    attr_accessor :timeout

    def initialize(pointer, socket) # :nodoc:
      @owned = [pointer]
      @socket = socket
      # The library waits for a moment only; then this waits in Ruby, which other threads and
      # exceptions can interrupt. What is sent is gathered, so that a send never waits, and a flush
      # that waited can be repeated.
      Error.check(Library.ns_socket_set_io_timeout_ms(pointer, 1))
      Error.check(Library.ns_socket_cork(pointer))
      @io = IO.for_fd(Library.ns_socket_fd(pointer), "r+", autoclose: false)
      ObjectSpace.define_finalizer(self, self.class.finalizer(@owned))
    end

    # Resets the connection of a socket that was forgotten. It is not for a child of fork, which
    # shares the connection with its parent.
    def self.finalizer(owned) # :nodoc:
      process = Process.pid
      lambda do |_|
        next if owned[0].zero? || Process.pid != process

        Library.ns_socket_abort(owned[0])
        Library.ns_socket_free(owned[0])
      end
    end

    # What the program keeps with the connection.
    def data = @socket.data

    def data=(data)
      @socket.data = data
    end

    # Reads at most `maxlen` bytes. Returns them, or nil at the end of the stream.
    def recv(maxlen = Server::BUFFER_SIZE)
      FFI::MemoryPointer.new(:char, maxlen) do |buffer|
        length = waiting(:wait_readable) { Library.owned_recv(@owned[0], buffer, maxlen) }
        return length.zero? ? nil : buffer.get_bytes(0, length)
      end
    end

    # Reads as `recv` does, and raises EOFError at the end of the stream.
    def readpartial(maxlen)
      recv(maxlen) || raise(EOFError, "end of the stream")
    end

    # Sends strings. Returns the number of bytes, when the kernel has them all.
    def write(*strings)
      bytes = Text.join(strings)
      0.step(bytes.bytesize - 1, PIECE) do |from|
        piece = bytes.byteslice(from, PIECE)
        check(Library.ns_socket_send(@owned[0], piece, piece.bytesize))
        waiting(:wait_writable) { Library.owned_flush(@owned[0]) }
      end
      bytes.bytesize
    end

    # Sends a string. Returns the socket.
    def <<(string)
      write(string)
      self
    end

    # Ends one direction, :read or :write, or :both.
    def shutdown(how = :write)
      check(Library.owned_shutdown(@owned[0], { read: 0, write: 1, both: 2 }.fetch(how)))
      nil
    end

    # The peer's address.
    def peer
      Text.read { |buffer, size| Library.ns_socket_peer(@owned[0], buffer, size) }
    end

    # The address of this side.
    def local
      Text.read { |buffer, size| Library.ns_socket_local(@owned[0], buffer, size) }
    end

    # What the TLS handshake agreed, a TLSInfo; nil without TLS.
    def tls
      TLSInfo.read(@owned[0])
    end

    # Goes over to TLS, as the server of the handshake, and returns when it is over.
    def starttls(tls, ahead: "")
      object = TLS.of(tls).pointer
      check(Library.owned_starttls(@owned[0], object, ahead, ahead.bytesize))
      nil
    end

    # Gives the connection to a server, its former one or another. Returns its Socket, which has a new
    # id; this object is closed.
    def attach(server = @socket.server)
      Library.ns_socket_uncork(@owned[0])
      id = Error.made { |err| Library.ns_attach(server.pointer, @owned[0], err) }
      @owned[0] = 0
      @socket.attached(server, id)
      @socket
    end

    # Gives the descriptor of a plain connection without unread bytes to the program, as an IO of the
    # given class; this object is closed.
    def release(io_class = ::Socket)
      fd = check(Library.ns_socket_release_fd(@owned[0]))
      @owned[0] = 0
      io_class.for_fd(fd)
    end

    # Resets the connection.
    def abort
      Library.ns_socket_abort(@owned[0])
      close
    end

    # Closes it. Where the peer has not taken all, this waits for `linger_timeout` at most.
    def close
      owned = @owned[0]
      @owned[0] = 0
      Library.ns_socket_free(owned)
      nil
    end

    # Whether it was closed, or attached.
    def closed?
      @owned[0].zero?
    end

    private

    # Repeats a call until it does not time out.
    def waiting(wait)
      limit = @timeout && (now + @timeout)
      while (result = yield) == TimeoutError::STATUS
        left = limit && (limit - now)
        raise TimeoutError if left && left <= 0

        @io.public_send(wait, left)
      end
      check(result)
    end

    def now
      Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end

    def check(result)
      raise ClosedError if @owned[0].zero?

      Error.check(result)
    end
  end
end
