# frozen_string_literal: true

require "io/wait"
require "socket"

module Netserver
  # A server in the program's own thread.
  #
  #   server = Netserver::Server.new("5000") { |socket| ... }
  #   server.on_close { |socket, reason| ... }
  #   server.run
  #
  # The block is called whenever a connection can be read, and must not wait for long. All blocks run
  # on the thread that calls `run`, one at a time. A server stays with the process that made it: in a
  # child of fork its calls raise StateError.
  class Server
    include Dispatch
    include Loop

    # The bytes that `recv` reads at most where it is not told otherwise.
    BUFFER_SIZE = 65_536

    STATES = %i[new starting running stopping stopped quiescing].freeze
    HOSTED = 2 # NS_START_HOSTED
    private_constant :STATES, :HOSTED

    # Makes a server, which listens when it is started. `service` is where: "5000", "http", "0" (any
    # free port), "127.0.0.1:5000", "[::1]:5000", "unix:/path", "unix:@name", "fd:3", "systemd".
    # The settings are those of Settings; the block is the handler.
    def initialize(service, **settings, &handler)
      raise ArgumentError, "a server needs a block, its handler" unless handler

      @service = Text.for_c(service)
      @settings = Settings.new(settings)
      @services = []
      @blocks = { on_input: handler, exception_handler: DEFAULT_EXCEPTION_HANDLER }
      @runner = Runner.new
      @buffer = FFI::MemoryPointer.new(:char, BUFFER_SIZE)
      @pointer = 0
      @process = Process.pid
    end

    # The address of the library's server; 0 before the start and after `close`.
    attr_reader :pointer # :nodoc:

    # -- blocks ---------------------------------------------------------------------------------

    # Called for each new connection, before its handler. One that raises RejectedError refuses it.
    def on_open(&block) = set(:on_open, block)

    # Called last for each connection, with the reason: :handler, :peer, :reset, :idle and so on.
    def on_close(&block) = set(:on_close, block)

    # Called when all queued bytes of a connection have left, or all but `low_water_mark`.
    def on_drain(&block) = set(:on_drain, block)

    # Called when a connection's timer fires. Without it the server closes the connection.
    def on_timeout(&block) = set(:on_timeout, block)

    # Called for a connection after `wake`.
    def on_wake(&block) = set(:on_wake, block)

    # Called with the server once it has its ports, before it accepts.
    def on_start(&block) = set(:on_start, block)

    # Called with the server once it has stopped.
    def on_stop(&block) = set(:on_stop, block)

    # Called with the socket (nil: there is none) and the exception: what a block raised, the very
    # object, or an Error of the library. The connection stays open unless this closes it. Without it
    # the exception goes to stderr, unless a client caused it by going away, and the connection
    # closes.
    def on_exception(&block) = set(:exception_handler, block)

    # Called with the socket of a client of the shutdown port. A true value stops the server;
    # WouldBlock has it called again with the next bytes.
    def on_shutdown(&block) = set(:shutdown_handler, block)

    # -- life -----------------------------------------------------------------------------------

    # Adds a service before the start, with TLS of its own or without. Returns its number.
    def add_service(service, tls: nil)
      only_before_start
      @services << [Text.for_c(service), tls && TLS.of(tls)]
      @services.size
    end

    # Listens, and returns when the server accepts. A start that fails may be tried again.
    def start
      only_before_start
      make
      @runner.turn { Error.checked { |err| Library.ns_server_start(@pointer, HOSTED, err) } }
      @io = IO.for_fd(check(Library.ns_server_poll_fd(@pointer)), "r", autoclose: false)
      self
    rescue Error => e
      free unless @io
      raise e.is_a?(HookError) && @start_failure.is_a?(Exception) ? @start_failure : e
    end

    # Serves until the server has stopped; starts it where that was not done.
    def run
      start unless @io
      alone { @io.wait_readable while step }
      nil
    end

    # Does one turn, after waiting for something to do, for so many seconds at most (nil: forever).
    # Returns false when the server has stopped. For a program with a loop of its own: IO.select and
    # the like take the server itself and return when a turn is due.
    def run_once(timeout = nil)
      alone do
        io = to_io
        io.wait_readable(timeout)
        step
      end
    end

    # What is readable when there is something to do.
    def to_io
      @pointer.zero? ? raise(StateError, "the server is not running") : @io
    end

    # Requests a stop and returns: `run` returns when what was sent has left. On any thread, in any
    # block, in a signal handler.
    def stop
      check(Library.ns_server_request_stop(@pointer)) unless @pointer.zero?
      nil
    end

    # Requests that the server accepts no more and serves on what it has, until a stop; and returns.
    # On any thread, in any block, in a signal handler.
    def quiesce
      check(Library.ns_server_request_quiesce(@pointer))
      nil
    end

    # Stops the server, for so many seconds at most (nil: `drain_timeout`), and frees what it has.
    # Not in a block of the server, and not while another thread runs it.
    def close(within: nil)
      return if @pointer.zero?
      raise BusyError, "the server runs: stop it, and close it when it has stopped" if @running && !forked?

      drain(within) unless forked?
      free
    end

    # :new, :starting, :running, :quiescing, :stopping or :stopped.
    def state
      return :stopped if @pointer.zero? && @io

      STATES.fetch(Library.ns_server_state(@pointer))
    end

    # Whether it has stopped, or was not started.
    def stopped?
      %i[new stopped].include?(state)
    end

    # The port of its first service; 0 before the start and for a unix socket.
    def port = Library.ns_server_port(@pointer)

    # The shutdown port; 0 where there is none.
    def shutdown_port = Library.ns_server_shutdown_port(@pointer)

    # The address that a service listens on, "0.0.0.0:5000"; "" before the start.
    def address(service = 0)
      Text.read { |buffer, size| Library.ns_server_service_address(@pointer, service, buffer, size) }
    end

    # Has the handshakes of a service that begin from now on use other certificates.
    def reload_tls(tls, service: 0)
      Error.checked { |err| Library.ns_server_reload_service_tls(@pointer, service, TLS.of(tls).pointer, err) }
      nil
    end

    # Counters, a Stats.
    def stats = Stats.read(self)

    # A report for people.
    def report
      Text.read(4096) { |buffer, size| Library.ns_server_report(@pointer, buffer, size) }
    end

    # The counters in the format of Prometheus.
    def metrics
      Text.read(8192) { |buffer, size| Library.ns_server_metrics(@pointer, buffer, size) }
    end

    # -- of the sockets -------------------------------------------------------------------------

    # The thread that runs the server.
    def thread = @runner.thread # :nodoc:

    # The buffer of `recv`, of that many bytes at least.
    def buffer(size) # :nodoc:
      @buffer = FFI::MemoryPointer.new(:char, size) if size > @buffer.size
      @buffer
    end

    # Returns what a call returned; raises where that is a negative status.
    def check(result) # :nodoc:
      return result unless result.negative?
      raise StateError, "the server is not running" if @pointer.zero?

      raise Error.of(result)
    end

    private

    def set(event, block)
      raise ArgumentError, "no block" unless block

      only_before_start
      @blocks[event] = block
      self
    end

    def only_before_start
      raise StateError, "the server was started" unless @pointer.zero? && @io.nil?
    end

    def make
      number = Table.add(self)
      config = @settings.config
      (@blocks.keys | [:on_open]).difference([:on_input]).each do |event|
        Library.public_send("ns_config_set_#{event}", config, Callbacks::EVENTS.fetch(event), number, nil)
      end
      @pointer = Error.made do |err|
        Library.ns_server_new(@service, Callbacks::INPUT, number, Table::DROP, config, err)
      end
      @services.each { |service, tls| serve_too(service, tls) }
    end

    def serve_too(service, tls)
      Error.checked do |err|
        next Library.ns_server_add_service(@pointer, service, err) unless tls

        Library.ns_server_add_service_tls(@pointer, service, tls.pointer, err)
      end
    end

    # Does what is due. Returns false when the server has stopped.
    def step
      status = @runner.turn { Library.ns_server_run_once(@pointer, 0) }
      return true if status.zero?
      raise StateError, "a server stays with the process that made it" if forked?

      status == StateError::STATUS && stopped? ? false : check(status)
    end

    # Keeps other threads from running the server, and from freeing it.
    def alone
      raise BusyError, "the server runs already" if @running

      begin
        @running = true
        yield
      ensure
        @running = false
      end
    end

    def forked?
      Process.pid != @process
    end

    def drain(within)
      stop
      limit = within && (now + within)
      alone { @io.wait_readable(limit && [limit - now, 0].max) while (limit.nil? || now < limit) && step }
      @runner.turn { Library.ns_server_stop_within(@pointer, 0) }
    end

    def now
      Process.clock_gettime(Process::CLOCK_MONOTONIC)
    end

    def free
      @runner.turn do
        check(Library.ns_server_free(@pointer))
        @pointer = 0
      end
    end
  end
end
