# frozen_string_literal: true

require_relative "helper"

# Calls from other threads, and what the program brings into the loop.
class CallTest < NetserverTest
  def test_calls_by_id_from_other_threads
    opened = Queue.new
    prepare = ->(server) { server.on_open { |socket| opened << socket } }
    serving(prepare: prepare) do |server|
      client = connect(server)
      socket = take(opened)
      assert_equal 6, Thread.new { socket.write("one\n", "two") }.value - 1
      socket << "\n"
      assert_equal %W[one\n two\n], [line(client), line(client)]
      by_number = server.connection(socket.id)
      by_number << "three\n"
      assert_equal "three\n", line(client)
      assert_equal 0, by_number.queued
      by_number.shutdown
      assert_equal "", rest(client)
      client.close
      soon("it stays open") { server.ids.empty? }
      assert_raises(Netserver::ClosedError) { by_number.write("late") }
      assert_raises(Netserver::ClosedError) { socket.write("late") }
      assert socket.closed?
      assert_nil socket.close
      assert_raises(Netserver::NotInHandlerError) { socket.recv }
    end
  end

  # On the server's own thread, in a callback of something else.
  def test_outside_of_its_callbacks_a_socket_goes_by_its_id
    seen = Queue.new
    handler = lambda do |socket|
      socket.recv or next socket.close
      socket.server.post do
        socket.write("by id\n")
        socket.recv
      rescue Netserver::Error => e
        seen << e.class
      end
    end
    serving(handler) do |server|
      client = connect(server)
      client.write("x")
      assert_equal "by id\n", line(client)
      assert_equal Netserver::NotInHandlerError, take(seen)
    end
  end

  # In a callback of the socket itself, but on a thread that is not the server's.
  def test_a_callback_is_its_own_threads_alone
    seen = Queue.new
    handler = lambda do |socket|
      socket.recv or next socket.close
      Thread.new do
        socket.write("by id\n")
        seen << assert_raises(Netserver::NotInHandlerError) { socket.peer }
        socket.close
      rescue Exception => e # rubocop:disable Lint/RescueException
        seen << e
      end.join
      socket.write("and direct\n")
    end
    serving(handler) do |server|
      client = connect(server)
      client.write("x")
      assert_instance_of Netserver::NotInHandlerError, take(seen)
      assert_equal ["and direct\n", "by id\n"], [line(client), line(client)].sort
      assert_equal "", rest(client)
    end
  end

  def test_close_and_abort_from_outside
    opened = Queue.new
    prepare = ->(server) { server.on_open { |socket| opened << socket } }
    serving(prepare: prepare) do |server|
      client = connect(server)
      socket = take(opened)
      2.times { socket.close }
      assert_equal "", rest(client)
      client = connect(server)
      take(opened).abort
      assert_equal :reset, rest(client)
    end
  end

  def test_broadcast
    serving do |server|
      clients = Array.new(5) { connect(server).tap { |client| echoed(client, "hello") } }
      assert_equal 5, server.broadcast("all\n")
      clients.each { |client| assert_equal "all\n", line(client) }
      gone, *ids = server.ids.sort
      server.connection(gone).abort
      soon("it stays open") { server.ids.size == 4 }
      results = server.broadcast_each("some\n", to: [gone, server.connection(ids[0])])
      assert_equal [Netserver::ClosedError, NilClass], results.values.map(&:class)
      assert_equal 0, server.broadcast("none", to: [])
      assert_equal({}, server.broadcast_each("none", to: []))
    end
  end

  def test_other_threads_run_while_the_server_waits
    count = 0
    serving do |server|
      counter = Thread.new { loop { (count += 1) && Thread.pass } }
      soon("the other thread does not run") { count > 1000 }
      echoed(connect(server), "x")
      counter.kill.join
    end
  end

  def test_timers
    fired = Queue.new
    serving do |server|
      started = now
      server.after(0.1) { |timer| fired << timer }
      once = take(fired)
      assert_operator now - started, :>=, 0.1
      assert_equal false, once.cancel
      server.every(0.01) { |timer| (fired << timer) && (timer.cancel if fired.size >= 3) }
      soon("it does not repeat") { fired.size == 3 }
      assert_equal true, server.after(3600) {}.cancel
    end
  end

  def test_posts_keep_their_order_and_may_come_from_a_signal_handler
    done = Queue.new
    serving do |server|
      100.times { |i| server.post { done << [i, server.thread == Thread.current] } }
      assert_equal Array.new(100) { |i| [i, true] }, Array.new(100) { take(done) }
      before = trap("USR2") { server.post { done << :signal } }
      Process.kill("USR2", Process.pid)
      assert_equal :signal, take(done)
      trap("USR2", before)
    end
  end

  def test_watches
    reader, writer = IO.pipe
    seen = Queue.new
    serving do |server|
      watch = server.watch(reader, :read) { |io, events| seen << [io.read_nonblock(10), events] }
      writer.write("abc")
      assert_equal ["abc", [:read]], take(seen)
      assert_raises(Netserver::BusyError) { server.watch(reader, :read) {} }
      assert_equal true, watch.cancel
      assert_equal false, watch.cancel
      other = server.watch(writer, :write) { |_, events| seen << events }
      assert_equal [:write], take(seen)
      other.change(:read)
      other.cancel
      assert_raises(Netserver::UnsupportedError) { File.open(__FILE__) { |file| server.watch(file, :read) {} } }
    end
    [reader, writer].each(&:close)
  end

  def test_adopt
    mine, theirs = UNIXSocket.pair
    serving(->(socket) { socket.write(socket.data, socket.recv) }) do |server|
      socket = server.adopt(theirs, "data ")
      assert theirs.closed?
      mine.write("x\n")
      assert_equal "data x\n", line(mine)
      assert_equal [socket.id], server.ids
      assert_raises(Netserver::InvalidError) { server.adopt(IO.pipe.each { |io| @clients << io }.first) }
    end
    mine.close
  end

  def test_connect
    opened = Queue.new
    failed = Queue.new
    prepare = lambda do |server|
      server.on_open { |socket| opened << socket.data }
      server.on_exception { |socket, exception| failed << [exception.class, socket.data] }
    end
    serving do |peer|
      serving(->(socket) { opened << socket.recv }, prepare: prepare) do |server|
        socket = server.connect("127.0.0.1:#{peer.port}", timeout: 10, data: :mine)
        assert_equal :mine, take(opened)
        socket.write("there and back")
        assert_equal "there and back", take(opened)
        bound = Socket.new(:INET, :STREAM) # and does not listen: nobody else can do so there
        @clients << bound
        bound.bind(Addrinfo.tcp("127.0.0.1", 0))
        begin
          server.connect("127.0.0.1:#{bound.local_address.ip_port}", data: :refused)
          assert_equal [Netserver::ConnectError, :refused], take(failed)
        rescue Netserver::ConnectError # it failed immediately
          nil
        end
        assert_raises(Netserver::AddressError) { server.connect("no.such.host.invalid:1") }
      end
    end
  end

  def test_in_the_programs_own_loop
    server = Netserver::Server.new("127.0.0.1:0", &ECHO)
    assert_raises(Netserver::StateError) { server.to_io }
    server.start
    assert_equal true, server.run_once(0)
    client = connect(server)
    client.write("x\n")
    got = nil
    until got
      ready, = in_time { IO.select([server, client]) }
      server.run_once(0) if ready.include?(server)
      got = client.gets if ready.include?(client)
    end
    assert_equal "x\n", got
    server.stop
    in_time { nil while server.run_once }
    assert_equal false, server.run_once(0)
    server.close
  end

  def test_stop_lets_queued_bytes_leave
    serving(->(socket) { socket.write("x" * 3_000_000) && socket.server.stop }) do |server|
      client = connect(server)
      client.write("x")
      assert_equal 3_000_000, rest(client).size
    end
  end

  def test_close_within
    server = Netserver::Server.new("127.0.0.1:0") { |socket| socket.write("x" * 12_000_000) }
    server.start
    client = connect(server)
    client.write("x")
    server.run_once until server.ids.any? && server.connection(server.ids.first).queued.positive?
    started = now
    server.close(within: 0.2)
    assert_operator now - started, :>=, 0.2
    assert_equal :stopped, server.state
    client.close
  end

  def test_the_shutdown_port
    server = Netserver::Server.new("127.0.0.1:0", shutdown_port: "0", &ECHO)
    server.on_shutdown do |socket|
      socket.recv == "stop"
    end
    server.start
    thread = Thread.new { server.run }
    TCPSocket.open("127.0.0.1", server.shutdown_port) { |client| client.write("go on") && client.read }
    assert thread.alive?
    TCPSocket.open("127.0.0.1", server.shutdown_port) { |client| client.write("stop") && client.read }
    assert thread.join(PATIENCE)
    server.close
  end

  def test_stats_and_report
    serving do |server|
      client = connect(server)
      echoed(client, "x")
      stats = server.stats
      assert_equal [1, 1, 2, 2, {}], [stats.accepted, stats.open, stats.bytes_in, stats.bytes_out, stats.closed]
      client.close
      soon("it stays open") { server.stats.closed == { peer: 1 } }
      assert_match(/^Total thread count: 1$/, server.report)
      assert_match(/^netserver_/, server.metrics)
    end
  end
end
