# frozen_string_literal: true

require_relative "helper"

class DetachTest < NetserverTest
  # Serves a handler that detaches what it reads, and yields the server and the sockets with it.
  def detaching(**settings)
    detached = Queue.new
    handler = lambda do |socket|
      data = socket.recv
      next ECHO_DATA.call(socket, data) if data.nil? || data.start_with?("echo")

      socket.data = data
      detached << [socket, socket.detach]
      assert_raises(Netserver::DetachedError) { socket.recv }
    end
    serving(handler, **settings) { |server| yield server, detached }
  end

  ECHO_DATA = ->(socket, data) { data ? socket.write(data) : socket.close }

  def test_detach_and_attach
    detaching do |server, detached|
      client = connect(server)
      client.write("mine")
      socket, owned = take(detached)
      id = socket.id
      assert_equal "mine", owned.data
      owned.write("a", "b\n")
      owned << "c\n"
      assert_equal %W[ab\n c\n], [line(client), line(client)]
      assert_equal client.local_address.inspect_sockaddr, owned.peer
      assert_equal client.remote_address.inspect_sockaddr, owned.local
      client.write("hello")
      assert_equal "hello", in_time { owned.recv }
      assert_nil owned.tls
      assert_same socket, owned.attach
      assert owned.closed?
      assert_raises(Netserver::ClosedError) { owned.recv }
      refute_equal id, socket.id
      echoed(client, "echo")
      assert_equal 1, server.stats.attached
    end
  end

  def test_to_another_server
    detaching do |_, detached|
      detaching do |other, _|
        detaching do |server, own|
          client = connect(server)
          client.write("x")
          socket, owned = take(own)
          owned.attach(other)
          assert_same other, socket.server
          echoed(client, "echo")
          assert_equal [socket.id], other.ids
        end
      end
      assert detached.empty?
    end
  end

  def test_the_ends
    detaching do |server, detached|
      client = connect(server)
      client.write("x")
      owned = take(detached)[1]
      client.write("last")
      client.close_write
      assert_equal "last", in_time { owned.readpartial(10) }
      assert_raises(EOFError) { owned.readpartial(10) }
      assert_nil owned.recv
      owned.write("reply")
      owned.shutdown(:write)
      assert_equal "reply", rest(client)
      2.times { owned.close }

      client = connect(server)
      client.write("x")
      take(detached)[1].abort
      assert_equal :reset, rest(client)
    end
  end

  def test_the_descriptor_as_an_io
    detaching do |server, detached|
      client = connect(server)
      client.write("x")
      owned = take(detached)[1]
      io = owned.release(TCPSocket)
      assert owned.closed?
      io.write("plain\n")
      assert_equal "plain\n", line(client)
      io.close
      mine, theirs = UNIXSocket.pair
      owned = Netserver::DetachedSocket.from(theirs)
      assert theirs.closed?
      owned.write("out\n")
      assert_equal "out\n", line(mine)
      socket = owned.attach(server)
      mine.write("echo in\n")
      assert_equal "echo in\n", line(mine)
      mine.write("mine")
      assert_same socket, take(detached).tap { |_, again| again.close }[0]
      mine.close
      assert_raises(Netserver::InvalidError) { Netserver::DetachedSocket.from(IO.pipe.each { |pipe| @clients << pipe }[0]) }
    end
  end

  def test_a_write_waits_for_the_peer_and_lets_others_run
    sent = Random.bytes(12_000_000)
    detaching do |server, detached|
      client = connect(server)
      client.write("x")
      owned = take(detached)[1]
      writer = Thread.new { owned.write(sent).then { owned.close } }
      soon("it does not wait") { writer.status == "sleep" }
      echoed(connect(server), "echo")
      assert_equal sent, rest(client)
      in_time { writer.join }
    end
  end

  def test_other_threads_end_a_wait
    detaching do |server, detached|
      %i[recv write].each do |call|
        client = connect(server)
        client.write("x")
        owned = take(detached)[1]
        arguments = call == :write ? ["x" * 12_000_000] : []
        assert_raises(Timeout::Error) { Timeout.timeout(0.2) { owned.public_send(call, *arguments) } }
        owned.timeout = 0.1
        assert_raises(Netserver::TimeoutError) { owned.public_send(call, *arguments) }
        thread = Thread.new do
          owned.timeout = nil
          owned.public_send(call, *arguments)
        end
        soon("it does not wait") { thread.status == "sleep" }
        in_time { thread.kill.join }
        owned.abort
      end
    end
  end

  # The collector resets what the program forgot, and nothing else.
  def test_a_forgotten_one_is_reset
    detaching do |server, detached|
      client = connect(server)
      client.write("x")
      forget(detached)
      100.times { Array.new(1000) { +"" } }
      soon("it is kept") do
        GC.start
        client.wait_readable(0)
      end
      assert_equal :reset, rest(client)
    end
  end

  def forget(detached)
    Thread.new { take(detached).clear }.join
  end

  def test_it_outlives_its_server
    owned = nil
    client = nil
    detaching do |server, detached|
      client = connect(server)
      client.write("x")
      owned = take(detached)[1]
    end
    owned.write("after\n")
    assert_equal "after\n", line(client)
    assert_raises(Netserver::InvalidError) { owned.attach }
    owned.close
  end
end
