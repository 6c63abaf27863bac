# frozen_string_literal: true

require "fiber"

module Netserver
  # Runs the program's blocks when the library calls back, so that nothing jumps over the library's
  # frames, which are on the stack then.
  #
  # The blocks run in a fiber of their own, one for all. It is what `throw`, `break` and `return`
  # cannot leave: they raise an exception in the block. It is a blocking one, so that a fiber
  # scheduler does not switch to another fiber in a block. What other threads do to this one (raise,
  # kill, Timeout) arrives in a block or when the turn is over.
  class Runner # :nodoc:
    # When exceptions of other threads arrive: in a turn, and in its blocks.
    LATER = { Object => :never }.freeze
    NOW = { Object => :immediate }.freeze

    # A thread was killed in a block: what an attempt returns then.
    KILLED = Object.new.freeze

    # A function that the library calls. What is raised outside of the blocks (Ruby raises an Interrupt
    # wherever it notices the signal) leaves the turn: the ffi gem forgets it at the next callback.
    def self.function(result, *arguments)
      FFI::Function.new(result, arguments) do |*values|
        yield(*values)
      rescue Exception => e # rubocop:disable Lint/RescueException
        runner = Thread.current.thread_variable_get(:netserver_runner) or raise # the call raises it
        runner.leave(e)
        0
      end
    end

    def initialize
      @killed = []
      @over = true
    end

    # Runs a call of the library that may call back, and then raises what is to leave it.
    def turn
      @fiber = nil unless Thread.current.equal?(@thread)
      @thread = Thread.current
      outer = @thread.thread_variable_get(:netserver_runner)
      @thread.thread_variable_set(:netserver_runner, self)
      Thread.handle_interrupt(LATER) { yield }
    ensure
      @thread.thread_variable_set(:netserver_runner, outer)
      # Only now can a killed thread go on to unwind: that ends it.
      @killed.pop.resume until @killed.empty?
      pending, @pending = @pending, nil
      raise pending if pending
    end

    # Has the turn raise an exception when it is over.
    def leave(exception)
      @pending ||= exception
    end

    # The thread that runs the turns.
    attr_reader :thread

    # Calls a block and returns its value, or the exception that it raised.
    def call(block, *arguments)
      @fiber = start unless @over && @fiber&.alive? # an interrupt may have ended it
      @over = false
      outcome = @fiber.resume(block, arguments)
      until @over
        outcome = @fiber.raise(FiberError, "a callback of the server cannot yield to another fiber")
      end
      outcome
    end

    # The value of the last block that raised nothing.
    attr_reader :value

    private

    def start
      Fiber.new(blocking: true) do |block, arguments|
        loop { block, arguments = give_back(attempt(block, arguments)) }
      end
    end

    def give_back(outcome)
      Fiber.yield(outcome)
    rescue FiberError
      # In a child of fork this fiber is the only one: there is nowhere to return to.
      abort "netserver: a child of fork cannot return from a block of its parent's server"
    end

    def attempt(block, arguments)
      error = KILLED
      @value = Thread.handle_interrupt(NOW) { block.call(*arguments) }
      error = nil
    rescue Exception => e # rubocop:disable Lint/RescueException
      error = e
    ensure
      @over = true
      if KILLED.equal?(error)
        @killed << @fiber
        @fiber = nil
        Fiber.yield(KILLED)
      end
    end
  end
end
