# frozen_string_literal: true

require_relative "helper"

# How programs end that did not stop their server, while clients send; and what a fork does.
class ProcessTest < NetserverTest
  MOST = 5 # seconds; the rule is 1, on a machine that is not busy

  SERVER = <<~RUBY
    $end = nil
    server = Netserver::Server.new("127.0.0.1:0") do |socket|
      data = socket.recv or next socket.close
      socket.write(data)
      HANDLE.call(socket, data) if defined?(HANDLE)
    end
    server.start
    puts server.port
  RUBY

  # Runs a program that begins with SERVER, under clients that send without end. Yields its process's
  # id and a client. Returns its status, what it wrote to stderr, and the seconds that its end took.
  def ending(source, before: "")
    begun = nil
    status, errors = program("#{before}\n#{SERVER}\n#{source}") do |pid, io|
      port = Integer(io.gets)
      traffic = Array.new(3) { Thread.new { send_on(port) } }
      client = TCPSocket.new("127.0.0.1", port)
      client.write("x")
      assert_equal "x", client.readpartial(1)
      begun = now
      yield pid, client
      io.read
      traffic.each(&:join)
      client.close
    end
    [status, errors, now - begun]
  end

  def send_on(port)
    client = TCPSocket.new("127.0.0.1", port)
    loop { client.write("y" * 1000) && client.readpartial(1000) }
  rescue SystemCallError, EOFError
    client&.close
  end

  def assert_ends(status, source, errors: /\A\z/, before: "", &act)
    act ||= ->(_, client) { client.write("end") }
    got, said, seconds = ending(source, before: before, &act)
    assert_equal status, got.signaled? ? -got.termsig : got.exitstatus, said
    assert_match(errors, said)
    assert_operator seconds, :<, MOST
  end

  UNTIL_END = "nil until $end || !server.run_once\n"
  ENDS = 'HANDLE = ->(_, data) { $end = true if data.include?("end") }'

  def test_the_end_of_the_script
    assert_ends(0, UNTIL_END, before: ENDS)
  end

  def test_exit
    assert_ends(7, "#{UNTIL_END} exit 7", before: ENDS)
    assert_ends(7, "server.run", before: 'HANDLE = ->(_, data) { exit(7) if data.include?("end") }')
    assert_ends(8, "server.run", before: 'HANDLE = ->(_, data) { exit!(8) if data.include?("end") }')
    assert_ends(1, "server.run", errors: /over/, before: 'HANDLE = ->(_, data) { abort("over") if data.include?("end") }')
  end

  def test_an_uncaught_exception
    assert_ends(1, "#{UNTIL_END} raise 'nobody catches this'", errors: /nobody catches this/, before: ENDS)
  end

  def test_signals
    assert_ends(-2, "server.run", errors: /Interrupt/) { |pid, _| Process.kill(:INT, pid) }
    assert_ends(-15, "server.run") { |pid, _| Process.kill(:TERM, pid) }
    assert_ends(-2, "server.run", errors: /Interrupt/, before: "HANDLE = ->(_, data) { loop {} if data.include?('end') }") do |pid, client|
      client.write("end")
      Process.kill(:INT, pid)
      # One that comes just before this block is for the end of the turn, which never comes: the block
      # sees the next one (see the README).
      Thread.new do
        loop { sleep(1) && Process.kill(:INT, pid) }
      rescue Errno::ESRCH
        nil
      end
    end
  end

  # Wherever Ruby notices the signal: in a block, or in the binding on the way to one.
  def test_no_interrupt_is_lost
    source = "begin\nserver.run\nrescue Interrupt\nputs 'interrupted'\nretry\nend"
    status, = program("#{SERVER}\n#{source}") do |pid, io|
      port = Integer(io.gets)
      over = false
      traffic = Array.new(4) { Thread.new { send_on(port) until over } }
      40.times do
        client = TCPSocket.new("127.0.0.1", port)
        client.write("x")
        assert_equal "x", client.readpartial(1) # it runs
        client.close
        Process.kill(:INT, pid)
        assert_equal "interrupted\n", in_time { io.gets }
      end
      over = true
      Process.kill(:KILL, pid)
      traffic.each(&:join)
    end
    assert_equal 9, status.termsig
  end

  def test_at_exit
    assert_ends(5, "#{UNTIL_END} at_exit { exit 5 }", before: ENDS)
    # A server that runs when the program ends.
    assert_ends(6, "at_exit { #{UNTIL_END.strip}\n exit 6 }", before: ENDS)
    assert_ends(0, "at_exit { server.close(within: 0) }\n#{UNTIL_END}", before: ENDS)
  end

  def test_a_server_in_another_thread
    thread = "Thread.new { server.run }\n"
    assert_ends(0, "#{thread} sleep 0.01 until $end", before: ENDS)
    # A block that waits, and one that never ends.
    assert_ends(0, "#{thread} sleep 0.01 until $end", before: "HANDLE = ->(_, data) { ($end = true) && sleep if data.include?('end') }")
    assert_ends(0, "#{thread} sleep 0.01 until $end", before: "HANDLE = ->(_, data) { ($end = true) && loop {} if data.include?('end') }")
    assert_ends(3, "#{thread} sleep", before: 'HANDLE = ->(_, data) { exit(3) if data.include?("end") }')
    assert_ends(1, "Thread.abort_on_exception = true\n#{thread} sleep 0.01 until $end\nraise 'main'", errors: /main/, before: ENDS)
  end

  def test_a_detached_socket_whose_thread_waits
    before = <<~RUBY
      HANDLE = lambda do |socket, data|
        next unless data.include?("end")
        Thread.new(socket.detach) { |owned| owned.write("z" * 20_000_000) }
        Thread.new(socket.server.connect("127.0.0.1:\#{socket.server.port}")) { sleep }
        socket.server.after(0.2) { $end = true }
      end
    RUBY
    assert_ends(0, UNTIL_END, before: before)
  end

  def test_a_stop_by_a_signal_handler
    source = "trap('TERM') { server.stop }\nserver.run\nserver.close\nputs Netserver::Table.size"
    assert_ends(0, source) { |pid, _| Process.kill(:TERM, pid) }
  end

  # -- fork -------------------------------------------------------------------------------------

  def in_child
    reader, writer = IO.pipe
    child = fork do
      reader.close
      writer.write(Marshal.dump(yield))
      writer.close
      exit!(0)
    end
    writer.close
    Marshal.load(in_time { reader.read })
  ensure
    reader.close
    in_time { Process.wait(child) }
  end

  def error_of
    yield
    nil
  rescue Netserver::Error => e
    e.status_name
  end

  def test_a_child_gets_exceptions
    server = Netserver::Server.new("127.0.0.1:0", &ECHO)
    server.start
    said = in_child do
      [error_of { server.run }, error_of { server.run_once(0) }, error_of { server.ids }, error_of { server.post {} },
       error_of { server.after(1) {} }, server.state, server.port, error_of { server.close }]
    end
    assert_equal [*["NS_ERR_STATE"] * 5, :stopped, 0, nil], said
    thread = Thread.new { server.run }
    echoed(connect(server), "the parent serves")
    server.stop
    in_time { thread.join }
    server.close
  end

  def test_a_child_of_a_block
    said = nil
    handler = lambda do |socket|
      socket.recv or next socket.close
      said = in_child { [error_of { socket.write("x") }, error_of { socket.recv }, error_of { socket.server.close }] }
      socket.write("done\n")
    end
    serving(handler) do |server|
      client = connect(server)
      client.write("x")
      assert_equal "done\n", line(client)
      assert_equal ["NS_ERR_STATE", "NS_ERR_STATE", nil], said
    end
  end

  # A fork leaves the child nothing but the fiber of the block, so that is where it ends.
  def test_a_child_that_returns_from_a_block
    before = "HANDLE = ->(_, data) { fork if data.include?('fork') }"
    source = "trap('TERM') { server.stop }\nserver.run\nputs Process.wait2[1].exitstatus\nserver.close"
    output = nil
    status, errors = program("#{before}\n#{SERVER}\n#{source}") do |pid, io|
      client = TCPSocket.new("127.0.0.1", Integer(io.gets))
      client.write("fork")
      assert_equal "fork", client.readpartial(10)
      client.write("on")
      assert_equal "on", client.readpartial(10)
      Process.kill(:TERM, pid)
      output = io.read
      client.close
    end
    assert_equal ["1\n", 0], [output, status.exitstatus]
    assert_match(/\Anetserver: a child of fork cannot return from a block.*\n\z/, errors)
  end

  def test_a_child_may_make_servers
    said = in_child do
      server = Netserver::Server.new("127.0.0.1:0", &ECHO)
      server.start
      client = TCPSocket.new("127.0.0.1", server.port)
      client.write("x")
      server.run_once until client.wait_readable(0)
      client.readpartial(1)
    end
    assert_equal "x", said
  end
end
