# frozen_string_literal: true

require_relative "helper"

class TLSTest < NetserverTest
  TLS = { cert: Certificates::SERVER.cert_file, key: Certificates::SERVER.key_file }.freeze

  # A TLS client that trusts the tests' authority.
  def connect_tls(server, socket: connect(server), name: "localhost", client: nil, alpn: nil, version: nil, session: nil)
    context = OpenSSL::SSL::SSLContext.new
    context.ca_file = Certificates::AUTHORITY.cert_file
    context.verify_mode = OpenSSL::SSL::VERIFY_PEER
    context.add_certificate(client.certificate, client.key) if client
    context.alpn_protocols = alpn if alpn
    context.min_version = context.max_version = version if version
    tls = OpenSSL::SSL::SSLSocket.new(socket, context)
    tls.sync_close = true
    tls.hostname = name
    tls.session = session if session
    in_time { tls.connect }
    @clients << tls
    tls
  end

  # What a connection agreed, as the server sees it.
  def agreed(server, infos, **options)
    client = connect_tls(server, **options)
    echoed(client, "x")
    take(infos)
  end

  def with_infos(tls, &block)
    infos = Queue.new
    prepare = lambda do |server|
      server.on_open { |socket| infos << socket.tls }
      server.on_exception { |socket, _| socket&.close }
    end
    serving(prepare: prepare, tls: tls) { |server| block.call(server, infos) }
  end

  def test_echo_and_what_was_agreed
    with_infos(TLS.merge(alpn: %w[h2 http/1.1])) do |server, infos|
      info = agreed(server, infos, alpn: %w[http/1.1])
      assert_equal ["1.3", "http/1.1", "localhost", false, nil, nil],
                   [info.version, info.alpn, info.server_name, info.resumed, info.certificate, info.subject]
      assert_match(/\ATLS_/, info.cipher_suite)
      info = agreed(server, infos, version: :TLS1_2)
      assert_equal ["1.2", nil], [info.version, info.alpn]
    end
    with_infos(TLS.merge(min_version: "1.3", tickets: false, session_cache: 10)) do |server, _|
      assert_raises(OpenSSL::SSL::SSLError, SystemCallError) { connect_tls(server, version: :TLS1_2) }
    end
  end

  def test_client_certificates
    authority = Certificates::AUTHORITY.cert_file
    with_infos(TLS.merge(client_ca: authority, client_cert: :optional)) do |server, infos|
      assert_nil agreed(server, infos).certificate
      info = agreed(server, infos, client: Certificates::CLIENT)
      assert_equal Certificates::CLIENT.certificate.to_der, info.certificate
      assert_equal "CN=ann", info.subject
    end
    with_infos(TLS.merge(client_ca: authority)) do |server, infos|
      assert agreed(server, infos, client: Certificates::CLIENT).certificate
      assert_raises(OpenSSL::SSL::SSLError, SystemCallError, EOFError) do
        client = connect_tls(server)
        client.write("x")
        in_time { client.readpartial(1) }
      end
    end
  end

  def test_certificates_by_name_from_memory_and_der
    other = Certificates::OTHER
    tls = Netserver::TLS.new(**TLS)
    tls.add_certificate_pem(File.read(other.cert_file), File.read(other.key_file), server_name: "other")
    tls.add_certificate_der([other.certificate.to_der], other.key.to_der, server_name: "third")
    tls.set_client_ca_pem(File.read(Certificates::AUTHORITY.cert_file), client_cert: :optional)
    with_infos(tls) do |server, infos|
      subjects = { "localhost" => "server", "other" => "other", "third" => "other" }
      subjects.each do |name, subject|
        client = connect_tls(server, name: name)
        assert_equal "/CN=#{subject}", client.peer_cert.subject.to_s
        echoed(client, "x")
        assert_equal name, take(infos).server_name
      end
    end
    assert_raises(Netserver::StateError) { tls.add_certificate(other.cert_file, other.key_file) }
  end

  def test_reload
    with_infos(TLS) do |server, _|
      assert_equal "/CN=server", connect_tls(server).peer_cert.subject.to_s
      server.reload_tls({ cert: Certificates::OTHER.cert_file, key: Certificates::OTHER.key_file })
      assert_equal "/CN=other", connect_tls(server).peer_cert.subject.to_s
      assert_raises(Netserver::CertificateError) { server.reload_tls(Netserver::TLS.new) }
    end
  end

  # Another object with the same keys opens the tickets of one, as another process would. With TLS 1.2
  # the client has its ticket when it is connected.
  def test_ticket_keys
    one = Random.bytes(80)
    other = Random.bytes(80)
    last = Netserver::TLS.new(**TLS, ticket_keys: one)
    serving(tls: TLS.merge(ticket_keys: one)) do |first|
      session = connect_tls(first, version: :TLS1_2).session
      with_infos(last) do |server, infos|
        resumed = -> { agreed(server, infos, version: :TLS1_2, session: session).resumed }
        assert resumed.call
        last.ticket_keys = other + one
        assert resumed.call
        last.ticket_keys = other
        refute resumed.call
      end
    end
    [0, 79, 80 * 17].each do |size|
      [-> { last.ticket_keys = "x" * size }, -> { Netserver::TLS.new(**TLS, ticket_keys: "x" * size) }].each do |act|
        assert_equal "ticket keys are 1 to 16 times 80 bytes, not #{size}", assert_raises(Netserver::InvalidError, &act).message
      end
    end
  end

  def test_a_service_with_tls_beside_a_plain_one
    prepare = ->(server) { server.add_service("127.0.0.1:0", tls: TLS) }
    serving(prepare: prepare) do |server|
      echoed(connect(server), "plain")
      socket = TCPSocket.new("127.0.0.1", server.address(1)[/\d+\z/].to_i)
      echoed(connect_tls(server, socket: socket), "secret")
    end
  end

  def test_starttls
    tls = Netserver::TLS.new(**TLS)
    handler = lambda do |socket|
      data = socket.recv or next socket.close
      next socket.write(data) unless data.start_with?("STARTTLS\n")

      socket.write("go\n")
      socket.starttls(tls, ahead: data.delete_prefix("STARTTLS\n"))
    end
    serving(handler) do |server|
      client = connect(server)
      echoed(client, "plain")
      client.write("STARTTLS\n")
      assert_equal "go\n", line(client)
      echoed(connect_tls(server, socket: client), "secret")
    end
  end

  def test_detached
    detached = Queue.new
    handler = lambda do |socket|
      data = socket.recv or next socket.close
      data == "take\n" ? detached << socket.detach : socket.write(data)
    end
    sent = Random.bytes(500_000)
    serving(handler, tls: TLS) do |server|
      client = connect_tls(server)
      client.write("take\n")
      owned = take(detached)
      assert_equal "1.3", owned.tls.version
      client.write(sent)
      got = +""
      in_time { got << owned.recv until got.bytesize == sent.bytesize }
      assert_equal sent, got
      writer = Thread.new { owned.write(sent, "\n") }
      assert_equal sent, in_time { client.read(sent.bytesize) }
      assert_equal "\n", in_time { client.read(1) }
      writer.join
      owned.attach
      echoed(client, "attached")
    end
  end

  def test_starttls_of_a_detached_socket
    serving do |server|
      mine, theirs = UNIXSocket.pair
      owned = Netserver::DetachedSocket.from(theirs)
      owned.write("go\n")
      assert_equal "go\n", line(mine)
      upgrade = Thread.new { owned.starttls(TLS) }
      client = connect_tls(server, socket: mine)
      in_time { upgrade.join }
      client.write("secret\n")
      assert_equal "secret\n", in_time { owned.readpartial(100) }
      owned.attach(server)
      echoed(client, "attached")
    end
  end

  def test_a_failed_handshake_reaches_the_exception_handler
    got = Queue.new
    prepare = ->(server) { server.on_exception { |socket, exception| got << [exception.class, socket.peer] } }
    serving(prepare: prepare, tls: TLS) do |server|
      client = connect(server)
      client.write("this is no TLS\n")
      assert_equal [Netserver::HandshakeError, client.local_address.inspect_sockaddr], take(got)
    end
  end
end
