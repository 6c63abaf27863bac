# frozen_string_literal: true

require_relative "helper"

class EchoTest < NetserverTest
  def test_a_mebibyte_comes_back
    sent = Random.bytes(1 << 20)
    serving do |server|
      client = connect(server)
      writer = Thread.new { client.write(sent) && client.close_write }
      assert_equal sent, rest(client)
      writer.join
    end
  end

  def test_many_clients_at_the_same_time
    serving do |server|
      clients = Array.new(200) { connect(server) }
      clients.each_with_index { |client, i| client.write("#{i}\n") }
      assert_equal Array.new(200) { |i| "#{i}\n" }, clients.map { |client| line(client) }
      assert_equal 200, server.ids.size
    end
  end

  def test_a_socket_is_one_object
    seen = Queue.new
    prepare = lambda do |server|
      server.on_open { |socket| seen << socket }
      server.on_close { |socket, reason| seen << socket << reason << socket.closed? }
    end
    serving(->(socket) { seen << socket && ECHO.call(socket) }, prepare: prepare) do |server|
      client = connect(server)
      echoed(client, "x")
      client.close
      opened = take(seen)
      3.times { assert_same opened, take(seen) }
      assert_equal :peer, take(seen)
      assert_equal true, take(seen)
    end
  end

  def test_what_a_socket_says
    said = Queue.new
    handler = lambda do |socket|
      said << [socket.peer, socket.local, socket.remote_address.inspect_sockaddr, socket.local_address.ip_port,
               socket.service, socket.queued, socket.os_error, socket.fileno, socket.tls, socket.server, socket.id]
      ECHO.call(socket)
    end
    serving(handler) do |server|
      client = connect(server)
      echoed(client, "x")
      mine = client.local_address.inspect_sockaddr
      values = take(said)
      assert_equal [mine, server.address, mine, server.port, 0, 0, 0], values[0..6]
      assert_operator values[7], :>, 2
      assert_nil values[8]
      assert_same server, values[9]
      assert_equal server.ids, [values[10]]
    end
  end

  def test_readpartial_and_would_block
    seen = Queue.new
    handler = lambda do |socket|
      loop { seen << socket.readpartial(2) }
    rescue Netserver::WouldBlock => e
      seen << e.is_a?(IO::WaitReadable) << socket.recv(exception: false)
      raise
    rescue EOFError
      seen << :end
      socket.close
    end
    serving(handler) do |server|
      client = connect(server)
      client.write("abc")
      assert_equal ["ab", "c", true, :wait_readable], Array.new(4) { take(seen) }
      client.close_write
      assert_equal :end, take(seen)
      assert_equal "", rest(client)
      soon("a failure is counted") { server.stats.handler_errors.zero? }
    end
  end

  def test_large_recv_and_several_strings
    handler = ->(socket) { (data = socket.recv(200_000)) ? socket.write("<", data.bytesize, ">") : socket.close }
    serving(handler) do |server|
      client = connect(server)
      client.write("x" * 150_000)
      client.close_write
      sizes = rest(client).scan(/<(\d+)>/).flatten.map(&:to_i)
      assert_equal 150_000, sizes.sum
    end
  end

  def test_strings_of_several_encodings
    serving(->(socket) { socket.write("größer", socket.recv, 7) }) do |server|
      client = connect(server)
      client.write("\xff\n")
      assert_equal "größer".b + "\xff\n".b, line(client).b
    end
  end

  def test_half_close_and_abort
    handler = lambda do |socket|
      case socket.recv
      when "half" then socket.write("bye").then { socket.shutdown(:write) }
      when "abort" then socket.abort
      when nil then socket.close
      end
    end
    serving(handler) do |server|
      client = connect(server)
      client.write("half")
      assert_equal "bye", rest(client)
      client = connect(server)
      client.write("abort")
      assert_equal :reset, rest(client)
    end
  end

  # A handler that fills the queue whenever it has room holds no more than that for a client that
  # does not read, and the client gets all of it in the end.
  def test_back_pressure
    left = 300
    fill = lambda do |socket|
      while left.positive? && socket.queued < 100_000
        socket.write("x" * 65_536)
        left -= 1
      end
      socket.close if left.zero?
    end
    prepare = ->(server) { server.on_drain(&fill) }
    serving(->(socket) { socket.recv && fill.call(socket) }, prepare: prepare) do |server|
      client = connect(server)
      client.setsockopt(:SOCKET, :RCVBUF, 65_536)
      client.write("go")
      soon("nothing is queued") { server.ids.any? && server.connection(server.ids.first).queued.positive? }
      assert_operator left, :>, 100
      assert_operator server.connection(server.ids.first).queued, :<, 200_000
      assert_equal 300 * 65_536, rest(client).size
    end
  end

  def test_pause_resume_and_wake
    sockets = Queue.new
    prepare = lambda do |server|
      server.on_open do |socket|
        socket.pause
        sockets << socket
      end
      server.on_wake(&:resume)
    end
    serving(prepare: prepare) do |server|
      client = connect(server)
      socket = take(sockets)
      client.write("held\n")
      assert_nil client.wait_readable(0.2)
      socket.wake
      assert_equal "held\n", line(client)
    end
  end

  def test_the_timer_of_a_socket
    prepare = lambda do |server|
      server.on_open { |socket| socket.timer = 0.05 }
      server.on_timeout { |socket| socket << "time" << "\n" }
    end
    serving(prepare: prepare) { |server| assert_equal "time\n", line(connect(server)) }
    reasons = Queue.new
    prepare = lambda do |server|
      server.on_open { |socket| socket.timer = 0.05 }
      server.on_close { |_, reason| reasons << reason }
    end
    serving(prepare: prepare) do |server|
      assert_equal "", rest(connect(server))
      assert_equal :timer, take(reasons)
    end
  end

  def test_unix_sockets
    Dir.mktmpdir do |folder|
      path = File.join(folder, "s")
      said = Queue.new
      handler = ->(socket) { said << socket.peer_credentials << socket.remote_address && ECHO.call(socket) }
      serving(handler, service: "unix:#{path}", unix_mode: 0o640) do |server|
        assert_equal "unix:#{path}", server.address
        assert_equal 0o640, File.stat(path).mode & 0o777
        client = UNIXSocket.new(path)
        @clients << client
        echoed(client, "x")
        assert_equal [Process.pid, Process.uid, Process.gid], take(said)
      end
    end
  end

  def test_several_services
    services = Queue.new
    prepare = ->(server) { assert_equal 1, server.add_service("127.0.0.1:0") }
    serving(->(socket) { services << socket.service && ECHO.call(socket) }, prepare: prepare) do |server|
      client = TCPSocket.new("127.0.0.1", server.address(1)[/\d+\z/].to_i)
      @clients << client
      echoed(client, "x")
      assert_equal 1, take(services)
    end
  end
end
