# frozen_string_literal: true

module Netserver
  # What the library refuses or reports. Each status has a class of its own below.
  class Error < StandardError
    # The number of the status, an `NS_ERR_...`.
    attr_reader :status
    # The code of the operating system (errno); 0 where there is none.
    attr_reader :os_code

    # Without arguments an error of this class says what its status means.
    def initialize(message = nil, status: self.class::STATUS, os_code: 0)
      super(message || Library.ns_status_message(status))
      @status = status
      @os_code = os_code
    end

    # The name of the status, "NS_ERR_CLOSED".
    def status_name
      Library.ns_status_name(status)
    end

    STATUS = -1015 # NS_ERR_HANDLER

    class << self
      # The error of a status.
      def of(status, message = nil, os_code: 0) # :nodoc:
        CLASSES.fetch(status, Error).new(message, status: status, os_code: os_code)
      end

      # The error of an `ns_error`.
      def from(error) # :nodoc:
        of(Library.ns_error_status(error), Library.ns_error_message(error).force_encoding("UTF-8"),
           os_code: Library.ns_error_os_code(error))
      end

      # Returns what a call returned; raises where that is a negative status.
      def check(result) # :nodoc:
        raise of(result) if result.negative?

        result
      end

      # Yields the `err` of a call that returns a negative status where it fails.
      def checked(&call) # :nodoc:
        with_reason(:negative?, &call)
      end

      # Yields the `err` of a call that returns 0, no object or id, where it fails.
      def made(&call) # :nodoc:
        with_reason(:zero?, &call)
      end

      private

      def with_reason(failed)
        FFI::MemoryPointer.new(:ulong) do |place|
          result = yield place
          return result unless result.public_send(failed)

          error = place.read(:ulong)
          begin
            raise from(error)
          ensure
            Library.ns_error_free(error)
          end
        end
      end
    end
  end

  # The class of an error whose status has the name `NS_ERR_...` and the given number.
  CLASSES = {
    InvalidError: -1001,        # an argument is not valid
    StateError: -1002,          # the wrong state for this call; also in a child of fork
    TimeoutError: -1003,
    ClosedError: -1004,         # the connection is closed, or its id is gone
    ResetError: -1005,          # the peer reset the connection
    WouldBlock: -1006,          # nothing can be read now; no failure where a handler raises it
    BufferFullError: -1007,     # the queue would pass send_limit; nothing was sent
    RejectedError: -1008,       # raised in on_open, it refuses the connection
    DetachedError: -1009,
    NotNonBlockingError: -1010,
    NotInHandlerError: -1011,   # only a callback of this connection can do this
    BusyError: -1012,
    DeadlockError: -1013,
    PanicError: -1014,          # a bug in the library
    HandlerError: -1015,
    AddressError: -1016,        # the service or host cannot be resolved
    ListenError: -1017,
    SystemError: -1018,         # another failure of the operating system
    NoMemoryError: -1019,       # the system has no room for a connection
    ThreadError: -1020,
    UnsupportedError: -1021,
    AcceptError: -1022,
    HookError: -1023,
    TLSError: -1024,            # TLS failed, or the peer broke its rules
    TruncatedError: -1025,      # the stream ended without TLS's close_notify
    HandshakeError: -1026,
    CertificateError: -1027,
    ConnectError: -1028,
    ProxyError: -1030,          # the PROXY header is missing or bad, or comes from no trusted proxy
    LimitError: -1031           # connections were refused beyond a limit of their address
  }.to_h do |name, status|
    [status, const_set(name, Class.new(Error) { const_set(:STATUS, status) })]
  end.freeze
  private_constant :CLASSES

  # For programs that rescue it from any IO.
  WouldBlock.include(IO::WaitReadable)
end
