# frozen_string_literal: true

require_relative "helper"

# Settings, errors of making and starting, and the order of a life.
class ServerTest < NetserverTest
  TIMES = %i[handshake_timeout idle_timeout write_timeout linger_timeout drain_timeout keep_alive].freeze
  NUMBERS = { max_connections: 5, max_per_address: 4, accept_rate_per_address: 3, accept_burst_per_address: 2,
              ipv4_prefix: 24, ipv6_prefix: 48, backlog: 6, max_handshakes: 7, unix_mode: 0o600, high_water_mark: 5000,
              low_water_mark: 300, send_limit: 9000, send_limit_total: 90_000 }.freeze
  FLAGS = { use_ipv6: true, reuse_port: true, no_delay: false }.freeze

  # The getters of the C API say what a server was made with.
  module Getters
    extend FFI::Library
    ffi_lib Netserver::Library.candidates
    attach_function :ns_server_config, [:ulong], :ulong
    TIMES.each { |name| attach_function :"ns_config_#{name}_ms", [:ulong], :uint32 }
    NUMBERS.each_key { |name| attach_function :"ns_config_#{name}", [:ulong], name =~ /mark|limit/ ? :size_t : :uint32 }
    FLAGS.each_key { |name| attach_function :"ns_config_#{name}", [:ulong], :int32 }
    attach_function :ns_config_shutdown_port, [:ulong], :string
    attach_function :ns_config_non_blocking, [:ulong], :int32
  end

  def test_every_setting_arrives
    settings = TIMES.each_with_index.to_h { |name, i| [name, i + 1.5] }.merge(NUMBERS, FLAGS, shutdown_port: "127.0.0.1:0")
    serving(**settings) do |server|
      config = Getters.ns_server_config(server.pointer)
      TIMES.each_with_index do |name, i|
        assert_equal i * 1000 + 1500, Getters.public_send("ns_config_#{name}_ms", config), name
      end
      NUMBERS.each { |name, value| assert_equal value, Getters.public_send("ns_config_#{name}", config), name }
      FLAGS.each { |name, value| assert_equal value ? 1 : 0, Getters.public_send("ns_config_#{name}", config), name }
      assert_equal "127.0.0.1:0", Getters.ns_config_shutdown_port(config)
      assert_equal 1, Getters.ns_config_non_blocking(config)
    end
  end

  def test_bad_settings
    assert_raises(ArgumentError) { Netserver::Server.new("0", max_thread: 2, &ECHO) }
    assert_raises(ArgumentError) { Netserver::Server.new("0") }
    error = assert_raises(Netserver::InvalidError) { Netserver::Server.new("0", backlog: 0, &ECHO) }
    assert_includes error.message, "backlog"
    assert_raises(Netserver::InvalidError) { Netserver::Server.new("0", max_connections: -1, &ECHO) }
    assert_raises(Netserver::CertificateError) { Netserver::Server.new("0", tls: { cert: "/no/file", key: "/no" }, &ECHO) }
    server = Netserver::Server.new("127.0.0.1:0", tls: Netserver::TLS.new, &ECHO)
    assert_raises(Netserver::CertificateError) { server.start }
  end

  def test_a_text_with_a_nul
    text = "0\0x"
    server = Netserver::Server.new("127.0.0.1:0", &ECHO)
    assert_raises(ArgumentError) { Netserver::Server.new(text, &ECHO) }
    assert_raises(ArgumentError) { Netserver::Server.new("0", shutdown_port: text, &ECHO) }
    assert_raises(ArgumentError) { server.add_service(text) }
    assert_raises(ArgumentError) { server.connect(text) }
    assert_raises(ArgumentError) { Netserver::TLS.new(cert: text, key: text) }
    assert_raises(ArgumentError) { Netserver::TLS.new(client_ca: text) }
    assert_raises(ArgumentError) { Netserver::TLS.new(alpn: [text]) }
  end

  def test_bad_services_and_ports_in_use
    error = assert_raises(Netserver::InvalidError) { Netserver::Server.new("1:2:3", &ECHO).start }
    assert_includes error.message, "1:2:3"
    assert_raises(Netserver::AddressError) { Netserver::Server.new("no.such.host.invalid:1", &ECHO).start }
    serving do |server|
      other = Netserver::Server.new(server.address, &ECHO)
      error = assert_raises(Netserver::ListenError) { other.start }
      assert_equal Errno::EADDRINUSE::Errno, error.os_code
      assert_includes error.message, server.address
      assert_equal :new, other.state
    end
  end

  def test_a_start_that_failed_may_be_tried_again
    server = nil
    serving do |first|
      server = Netserver::Server.new(first.address, &ECHO)
      assert_raises(Netserver::ListenError) { server.start }
    end
    server.start
    assert_equal :running, server.state
    server.close
  end

  def test_quiesce
    server = Netserver::Server.new("127.0.0.1:0", &ECHO)
    assert_raises(Netserver::StateError) { server.quiesce }
    server.start
    port = server.port
    server.quiesce
    assert_equal true, server.run_once(0)
    assert_equal [:quiescing, false], [server.state, server.stopped?]
    assert_raises(Errno::ECONNREFUSED) { TCPSocket.new("127.0.0.1", port) }
    server.close
    assert_equal :stopped, server.state
  end

  def test_states
    events = []
    server = Netserver::Server.new("127.0.0.1:0", &ECHO)
    server.on_start { |me| events << [:start, me.equal?(server), me.state, me.port.positive?] }
    server.on_stop { |me| events << [:stop, me.equal?(server)] }
    assert_equal [:new, true, 0, ""], [server.state, server.stopped?, server.port, server.address]
    server.start
    assert_equal [:running, false], [server.state, server.stopped?]
    assert_raises(Netserver::StateError) { server.start }
    assert_raises(Netserver::StateError) { server.on_open {} }
    server.stop
    server.run
    assert_equal [:stopped, true], [server.state, server.stopped?]
    2.times { server.close }
    assert_equal [:stopped, true], [server.state, server.stopped?]
    assert_raises(Netserver::StateError) { server.run }
    assert_raises(Netserver::StateError) { server.start }
    assert_raises(Netserver::StateError) { server.ids }
    assert_equal [[:start, true, :starting, true], [:stop, true]], events
  end

  def test_what_a_block_may_not_do
    got = Queue.new
    handler = lambda do |socket|
      socket.recv
      %i[close run].each do |call|
        socket.server.public_send(call)
      rescue Netserver::Error => e
        got << e.class
      end
    end
    serving(handler) do |server|
      connect(server).write("x")
      assert_equal [Netserver::BusyError] * 2, [take(got), take(got)]
      assert_raises(Netserver::BusyError) { server.run }
      assert_raises(Netserver::BusyError) { server.close }
    end
  end

  def test_two_servers_of_which_one_stops_the_other
    serving do |first|
      stopped = Queue.new
      handler = lambda do |socket|
        socket.recv
        other = Netserver::Server.new("127.0.0.1:0", &ECHO)
        other.on_stop { stopped << :other }
        other.start
        other.close
        socket.write("closed\n")
      end
      serving(handler) do |second|
        client = connect(second)
        client.write("x")
        assert_equal "closed\n", line(client)
        assert_equal :other, take(stopped)
        echoed(connect(first), "still here")
      end
    end
  end

  def test_serve_closes_the_server
    Dir.mktmpdir do |folder|
      path = File.join(folder, "s")
      server = nil
      serving = Thread.new do
        Netserver.serve("unix:#{path}") do |socket|
          server = socket.server
          socket.write(socket.recv)
          server.stop
        end
      end
      soon("it does not listen") { File.socket?(path) }
      UNIXSocket.open(path) do |client|
        client.write("x")
        assert_equal "x", rest(client)
      end
      assert_nil(in_time { serving.value })
      refute File.exist?(path)
      assert_raises(Netserver::StateError) { server.stats }
    end
  end

  def test_every_status_has_a_class
    [*1001..1028, 1030, 1031].each do |number|
      error = Netserver::Error.of(-number)
      refute_instance_of Netserver::Error, error
      assert_equal(-number, error.status)
      refute_equal "NS_ERR_UNKNOWN", error.status_name
    end
    assert_equal "NS_ERR_UNKNOWN", Netserver::Error.of(-1099).status_name
  end

  def test_the_version
    assert_equal Netserver::VERSION, Netserver.library_version
  end

  # The descriptor that `run` waits for is the library's: the collector must not close its number.
  def test_the_collector_closes_no_descriptor
    Thread.new { 20.times { Netserver::Server.new("127.0.0.1:0", &ECHO).start.close } }.join
    files = Array.new(60) { File.open(__FILE__) }
    soon("the servers are kept") do
      GC.start
      ObjectSpace.each_object(Netserver::Server).count <= 2
    end
    files.each { |file| assert file.stat }
    files.each(&:close)
  end

  # Many connections come and go: nothing stays.
  def test_connections_leave_nothing
    serving do |server|
      size = Netserver::Table.size
      1000.times do
        TCPSocket.open("127.0.0.1", server.port) { |client| client.write("x\n") && line(client) }
      end
      soon("connections stay") { server.stats.open.zero? }
      assert_equal size, Netserver::Table.size
    end
  end
end
