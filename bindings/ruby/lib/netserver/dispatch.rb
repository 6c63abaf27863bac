# frozen_string_literal: true

module Netserver
  # The half of a server that the library calls: it runs the program's blocks, and sees to what they
  # raise.
  module Dispatch # :nodoc:
    # An exception on its way through the library to the exception handler.
    Raised = Struct.new(:exception)

    # What only the program as a whole can answer: it leaves `run`.
    FOR_THE_PROGRAM = [SystemExit, SignalException].freeze

    # What a client causes by going away.
    QUIET = [ResetError, TruncatedError, HandshakeError].freeze

    # Says on stderr what nobody handles, as Ruby does.
    COMPLAIN = ->(exception) { $stderr.puts(exception.full_message(highlight: false)) }

    # The exception handler of a server that has no other.
    DEFAULT_EXCEPTION_HANDLER = lambda do |socket, exception|
      COMPLAIN.call(exception) if QUIET.none? { |quiet| quiet === exception }
      socket&.close
    end

    # The most frequent one, so without a block of its own.
    def on_socket(event, pointer)
      socket = Table[Library.ns_socket_user_data(pointer)]
      socket.enter(pointer)
      exception = @runner.call(@blocks[event], socket)
      exception ? settle(exception, pointer) : 0
    ensure
      socket&.leave
    end

    def opened(pointer)
      number = Library.ns_socket_user_data(pointer)
      Table[number] || register(Socket.new(self), pointer)
      @blocks[:on_open] ? on_socket(:on_open, pointer) : with_socket(pointer) { 0 }
    end

    def closing(pointer, reason)
      with_socket(pointer) do |socket|
        settle_alone(@runner.call(@blocks[:on_close], socket, Netserver.reason(reason)))
      end
    end

    def starting
      @start_failure = @runner.call(@blocks[:on_start], self)
      settle(@start_failure, 0)
      @start_failure ? -1 : 0
    end

    def stopping
      settle_alone(@runner.call(@blocks[:on_stop], self))
    end

    def failed(pointer, error)
      raised = Table[Library.ns_error_payload(error)]
      exception = raised ? raised.exception : Error.from(error)
      return settle_failure(nil, exception) if pointer.zero?

      with_socket(pointer) { |socket| settle_failure(socket, exception) }
    end

    def shutting_down(pointer)
      with_socket(pointer) do |socket|
        outcome = @runner.call(@blocks[:shutdown_handler], socket)
        next WouldBlock::STATUS if outcome.is_a?(WouldBlock)

        settle_alone(outcome)
        outcome || @runner.value ? 1 : 0
      end
    end

    # Calls a block of the program that is about no connection.
    def call_alone(block, *arguments)
      settle(@runner.call(block, *arguments), 0)
    end

    private

    # Lends the socket of a callback its address. One that never opened has no Socket yet.
    def with_socket(pointer)
      socket = Table[Library.ns_socket_user_data(pointer)] || Socket.new(self)
      socket.enter(pointer)
      yield socket
    ensure
      socket&.leave
    end

    def register(socket, pointer)
      Library.ns_socket_set_user_data(pointer, Table.add(socket), Table::DROP)
    end

    # Returns the status of a callback, for what its block raised (nil: nothing).
    def settle(exception, pointer)
      case exception
      when nil then 0
      when WouldBlock then WouldBlock::STATUS
      when Runner::KILLED, *FOR_THE_PROGRAM
        leave_to_program(exception)
        # The block was left in its middle: what it has sent must not look whole.
        Library.ns_socket_abort(pointer)
        0
      else
        status = exception.is_a?(Error) ? exception.status : -1
        Library.ns_raise_with(pointer, status, nil, Table.add(Raised.new(exception)), Table::DROP)
      end
    end

    # Runs the exception handler, and returns its status.
    def settle_failure(socket, exception)
      outcome = @runner.call(@blocks[:exception_handler], socket, exception)
      settle_alone(outcome)
      outcome ? -1 : 0
    end

    # For what was raised where nobody can be told.
    def settle_alone(exception)
      case exception
      when nil, WouldBlock then nil
      when Runner::KILLED, *FOR_THE_PROGRAM then leave_to_program(exception)
      else @runner.call(COMPLAIN, exception)
      end
    end

    # Has `run` raise it after the turn. A killed thread ends by itself.
    def leave_to_program(exception)
      @runner.leave(exception) unless Runner::KILLED.equal?(exception)
    end
  end
end
