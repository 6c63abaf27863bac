# frozen_string_literal: true

require_relative "helper"

# What blocks raise, and what else leaves them.
class ExceptionTest < NetserverTest
  # Serves a handler that does what the block does, and returns what the exception handler got.
  def failure_of(prepare: nil, **settings, &block)
    got = Queue.new
    ready = lambda do |server|
      prepare&.call(server)
      server.on_exception do |socket, exception|
        got << exception
        socket&.close
      end
    end
    handler = ->(socket) { socket.recv && block.call(socket) }
    serving(handler, prepare: ready, **settings) do |server|
      client = connect(server)
      client.write("x")
      exception = take(got)
      rest(client)
      # The server goes on.
      client = connect(server)
      client.close_write
      client.close
      exception
    end
  end

  def test_the_very_object_with_its_backtrace
    raised = RuntimeError.new("why")
    got = failure_of { raise raised }
    assert_same raised, got
    assert_includes got.backtrace.first, __FILE__
  end

  def test_after_a_detach_too
    raised = RuntimeError.new("why")
    owned = nil
    got = failure_of do |socket|
      owned = socket.detach
      owned.close
      raise raised
    end
    assert_same raised, got
  end

  def test_errors_that_are_no_standard_error
    assert_kind_of NotImplementedError, failure_of { raise NotImplementedError }
    assert_kind_of SystemStackError, failure_of { deep }
  end

  def deep
    deep + 1
  end

  def test_throw_break_return_and_yield_cannot_leave_a_block
    assert_kind_of UncaughtThrowError, catch(:done) { failure_of { throw :done } }
    assert_kind_of LocalJumpError, failure_of { break }
    assert_kind_of LocalJumpError, failure_of(&proc_that_returns)
    assert_kind_of FiberError, failure_of { Fiber.yield }
    assert_kind_of FiberError, (failure_of do
      Fiber.yield
    rescue FiberError
      Fiber.yield
    end)
  end

  def proc_that_returns
    proc { return 1 }
  end

  def test_next_is_an_ordinary_end
    serving(->(socket) { ECHO.call(socket) }) { |server| echoed(connect(server), "x") }
    answered = Queue.new
    handler = proc do |socket|
      socket.recv or next socket.close
      answered << true
      next
    end
    serving(handler) do |server|
      connect(server).write("x")
      assert take(answered)
    end
  end

  def test_every_callback_of_a_connection
    { on_open: ->(_) {}, on_timeout: ->(socket) { socket.timer = 0.01 }, on_wake: lambda(&:wake),
      on_drain: ->(socket) { socket.write("x" * 8_000_000) && socket.queued } }.each do |event, cause|
      got = Queue.new
      raised = RuntimeError.new(event.to_s)
      prepare = lambda do |server|
        server.public_send(event) { raise raised }
        server.on_exception { |socket, exception| got << exception && socket.close }
      end
      serving(->(socket) { socket.recv && cause.call(socket) }, prepare: prepare) do |server|
        client = connect(server)
        client.write("x")
        reader = Thread.new { rest(client) }
        assert_same raised, take(got), event
        reader.join(PATIENCE)
      end
    end
  end

  def test_a_status_that_the_block_raises
    got = failure_of { raise Netserver::BufferFullError }
    assert_equal [Netserver::BufferFullError, -1007, "NS_ERR_BUFFER_FULL"], [got.class, got.status, got.status_name]
  end

  def test_on_open_refuses
    reasons = Queue.new
    prepare = lambda do |server|
      server.on_open { raise Netserver::RejectedError }
      server.on_exception { |_, exception| reasons << exception }
      server.on_close { |_, reason| reasons << reason }
    end
    serving(prepare: prepare) do |server|
      assert_equal "", rest(connect(server))
      assert_equal :rejected, take(reasons)
      assert_equal 0, server.stats.handler_errors
    end
  end

  def test_a_reset_of_the_client
    got = Queue.new
    prepare = ->(server) { server.on_exception { |socket, exception| got << exception && socket.close } }
    serving(prepare: prepare) do |server|
      client = connect(server)
      client.setsockopt(Socket::Option.linger(true, 0))
      client.write("x")
      line_or_byte = in_time { client.readpartial(1) }
      assert_equal "x", line_or_byte
      client.close
      exception = take(got)
      assert_kind_of Netserver::ResetError, exception
      assert_equal Errno::ECONNRESET::Errno, exception.os_code
      assert_equal 0, server.stats.handler_errors
    end
  end

  def test_without_a_handler_it_goes_to_stderr_and_the_connection_closes
    _, errors = capture_io do
      serving(->(socket) { socket.recv && raise("nobody handles this") }) do |server|
        client = connect(server)
        client.write("x")
        assert_equal "", rest(client)
      end
    end
    assert_includes errors, "nobody handles this (RuntimeError)"
    assert_includes errors, __FILE__
  end

  def test_where_nobody_can_be_told
    prepare = lambda do |server|
      server.on_close { raise "in on_close" }
      server.on_stop { raise "in on_stop" }
      server.on_exception { raise "in on_exception" }
    end
    _, errors = capture_io do
      serving(->(socket) { socket.recv && raise("first") }, prepare: prepare) do |server|
        client = connect(server)
        client.write("x")
        assert_equal "", rest(client)
        soon("the failures are not counted") { server.stats.handler_errors >= 2 }
      end
    end
    ["in on_close", "in on_stop", "in on_exception"].each { |text| assert_includes errors, text }
    refute_includes errors, "first"
  end

  def test_callbacks_without_a_connection
    got = Queue.new
    reader, writer = IO.pipe
    raised = Array.new(3) { |i| RuntimeError.new(i.to_s) }
    prepare = ->(server) { server.on_exception { |socket, exception| got << [socket, exception] } }
    serving(prepare: prepare) do |server|
      server.post { raise raised[0] }
      assert_equal [nil, raised[0]], take(got)
      server.after(0) { raise raised[1] }
      assert_equal [nil, raised[1]], take(got)
      watch = server.watch(reader, :read) do
        watch.cancel
        raise raised[2]
      end
      writer.write("x")
      assert_equal [nil, raised[2]], take(got)
    end
    [reader, writer].each(&:close)
  end

  def test_on_start_raises_from_start
    raised = RuntimeError.new("not today")
    server = Netserver::Server.new("127.0.0.1:0", &ECHO)
    server.on_start { raise raised }
    2.times { assert_same raised, assert_raises(RuntimeError) { server.start } }
    server.close
  end

  # -- for the program, not for the connection --------------------------------------------------

  def test_exit_and_interrupt_leave_run
    [SystemExit, Interrupt, SignalException.new("USR1")].each do |exception|
      server = Netserver::Server.new("127.0.0.1:0") { raise exception }
      server.start
      client = connect(server)
      client.write("x")
      in_time { assert_raises(exception.is_a?(Class) ? exception : exception.class) { server.run } }
      assert_equal :running, server.state
      server.close(within: 0)
      assert_equal :reset, rest(client)
    end
  end

  def test_exceptions_of_other_threads_come_between_turns_or_where_a_block_waits
    server = Netserver::Server.new("127.0.0.1:0", &ECHO)
    server.start
    assert_raises(Timeout::Error) { Timeout.timeout(0.05) { server.run } }
    client = connect(server)
    runner = Thread.new { catch(:out) { server.run } }
    echoed(client, "x") # it can be run again
    runner.report_on_exception = false
    runner.raise(ArgumentError, "from outside")
    assert_equal "from outside", assert_raises(ArgumentError) { runner.value }.message
    server.close(within: 0)
  end

  def test_a_timeout_in_a_block
    got = failure_of { Timeout.timeout(0.01) { sleep } }
    assert_kind_of Timeout::Error, got
  end

  def test_a_killed_thread_ends
    [-> { sleep }, -> { loop { Thread.pass } }, -> { Thread.exit }].each do |act|
      entered = Queue.new
      server = Netserver::Server.new("127.0.0.1:0") do |socket|
        socket.recv
        entered << true
        act.call
      end
      server.start
      unwound = false
      thread = Thread.new do
        server.run
        flunk("run returned")
      ensure
        unwound = true
      end
      client = connect(server)
      client.write("x")
      take(entered)
      thread.kill
      in_time { thread.join }
      assert unwound
      assert_nil thread.value
      server.close(within: 0)
      assert_equal :reset, rest(client)
    end
  end

  # At any moment: a kill in the binding's own code must not jump over the library's frames either,
  # which would leave the server in the middle of a turn.
  def test_threads_are_killed_in_the_middle_of_traffic
    server = Netserver::Server.new("127.0.0.1:0", &ECHO)
    server.on_open { |socket| socket.write("x") }
    server.start
    server.every(0.001) { 20.times { server.post { nil } } }
    traffic = Array.new(2) { Thread.new { loop { talk_until_reset(server.port) } } }
    25.times do
      runner = Thread.new { server.run }
      sleep(rand(0.005))
      in_time { runner.kill.join }
      assert_equal true, server.run_once(0)
    end
    traffic.each { |thread| thread.kill.join }
    server.close(within: 0)
  end

  def talk_until_reset(port)
    TCPSocket.open("127.0.0.1", port) { |client| loop { client.write(client.readpartial(100)) } }
  rescue SystemCallError, EOFError
    nil
  end
end
