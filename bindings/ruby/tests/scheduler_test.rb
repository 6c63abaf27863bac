# frozen_string_literal: true

require_relative "helper"
require_relative "scheduler"

# A server as one fiber among others.
class SchedulerTest < NetserverTest
  # Runs the block in a fiber of a thread that has a scheduler; returns when all fibers have ended.
  def scheduled(&block)
    thread = Thread.new do
      Thread.current.report_on_exception = false
      Fiber.set_scheduler(Scheduler.new)
      Fiber.schedule(&block)
    end
    in_time { thread.value }
  end

  def test_the_server_and_its_clients_take_turns
    got = []
    scheduled do
      server = Netserver::Server.new("127.0.0.1:0", &ECHO)
      server.start
      Fiber.schedule { server.run }
      clients = Array.new(10) do |i|
        Fiber.schedule do
          client = TCPSocket.new("127.0.0.1", server.port)
          10.times do |k|
            client.write("#{i} #{k}\n")
            got << client.gets
            sleep 0.001
          end
          client.close
        end
      end
      sleep 0.001 while clients.any?(&:alive?)
      server.stop
      sleep 0.001 until server.stopped?
      server.close
    end
    assert_equal 100, got.uniq.size
  end

  # A block runs in one go: what waits in it does not switch to another fiber.
  def test_a_block_that_sleeps
    order = []
    scheduled do
      server = Netserver::Server.new("127.0.0.1:0") do |socket|
        order << :begin
        sleep 0.05
        order << :end
        socket.recv
        socket.server.stop
      end
      server.start
      client = TCPSocket.new("127.0.0.1", server.port)
      client.write("x")
      Fiber.schedule do
        20.times do
          order << :other
          sleep 0.01
        end
      end
      server.run
      server.close
      client.close
    end
    assert_equal :end, order[order.index(:begin) + 1]
    assert_includes order, :other
  end

  # A fiber for each connection, by detaching it.
  def test_a_fiber_for_each_connection
    got = []
    scheduled do
      server = Netserver::Server.new("127.0.0.1:0") { |socket| socket.recv or socket.close }
      server.on_open do |socket|
        owned = socket.detach
        Fiber.schedule do
          while (data = owned.recv)
            sleep 0.01
            owned.write(data, data)
          end
          owned.close
        end
      end
      server.start
      Fiber.schedule { server.run }
      clients = Array.new(5) do |i|
        Fiber.schedule do
          client = TCPSocket.new("127.0.0.1", server.port)
          client.write(i.to_s)
          client.close_write
          got << client.read
          client.close
        end
      end
      sleep 0.001 while clients.any?(&:alive?)
      server.stop
      sleep 0.001 until server.stopped?
      server.close
    end
    assert_equal %w[00 11 22 33 44], got.sort
  end
end
