# frozen_string_literal: true

module Netserver
  # Certificates and what belongs to them. One object may serve several servers and services, and is
  # frozen by its first use.
  class TLS
    VERSIONS = { "1.2" => 771, "1.3" => 772 }.freeze
    private_constant :VERSIONS

    # A TLS object, of one or of the keywords for one.
    def self.of(tls) # :nodoc:
      tls.is_a?(TLS) ? tls : new(**tls)
    end

    # `cert` and `key` name the PEM files of the certificate chain and its key; without them add
    # certificates by one of the methods. `client_ca` names the PEM file of the authorities that sign
    # clients' certificates; with `client_cert` :required (default) a client must show one, with
    # :optional it may. `alpn` has the application protocols, the preferred one first. `min_version`
    # is "1.2" (default) or "1.3". `tickets: false`, `session_cache: N` and `ticket_keys` (see
    # ticket_keys=) change how sessions resume.
    def initialize(cert: nil, key: nil, client_ca: nil, client_cert: :required, alpn: nil, min_version: nil,
                   tickets: nil, session_cache: nil, ticket_keys: nil)
      @owner = Library.owner(Library.ns_tls_new, :ns_tls_free)
      add_certificate(cert, key) if cert || key
      set_client_ca(client_ca, client_cert) if client_ca
      set_alpn(alpn) if alpn
      Error.check(Library.ns_tls_set_min_version(pointer, VERSIONS.fetch(min_version.to_s))) if min_version
      Error.check(Library.ns_tls_set_tickets(pointer, tickets ? 1 : 0)) unless tickets.nil?
      Error.check(Library.ns_tls_set_session_cache(pointer, session_cache)) if session_cache
      self.ticket_keys = ticket_keys if ticket_keys
    end

    # Adds a certificate chain and its key from PEM files, for the clients that ask for the name
    # `server_name` ("example.org", "*.example.org"), or for all others (nil).
    def add_certificate(chain_file, key_file, server_name: nil)
      Error.checked { |err| Library.ns_tls_add_cert_file(pointer, server_name, chain_file, key_file, err) }
      self
    end

    # Adds them from PEM text.
    def add_certificate_pem(chain, key, server_name: nil)
      Error.checked do |err|
        Library.ns_tls_add_cert_pem(pointer, server_name, chain, chain.bytesize, key, key.bytesize, err)
      end
      self
    end

    # Adds them from DER: an Array of certificates, and a key.
    def add_certificate_der(chain, key, server_name: nil)
      places = chain.map { |each| FFI::MemoryPointer.new(:char, each.bytesize).put_bytes(0, each) }
      lengths = chain.map(&:bytesize).pack("J*")
      Error.checked do |err|
        Library.ns_tls_add_cert_der(pointer, server_name, places.map(&:address).pack("J*"), lengths, chain.size,
                                    key, key.bytesize, err)
      end
      self
    end

    # Sets the authorities that sign clients' certificates, from PEM text.
    def set_client_ca_pem(pem, client_cert: :required)
      Error.checked do |err|
        Library.ns_tls_set_client_ca_pem(pointer, pem, pem.bytesize, required(client_cert), err)
      end
      self
    end

    # Sets the keys of tickets, with which other processes resume the sessions of this one: 1 to 16 keys
    # of 80 random bytes, one behind the other. The first seals tickets, each opens those that it sealed,
    # for 12 hours. At any time, also when the object is in use: to rotate, give all processes the new
    # key as the second one, then as the first. A key is as secret as the certificate's.
    def ticket_keys=(keys)
      status = Library.ns_tls_set_ticket_keys(pointer, keys, keys.bytesize)
      if status == InvalidError::STATUS
        raise InvalidError, "ticket keys are 1 to 16 times 80 bytes, not #{keys.bytesize}"
      end

      Error.check(status)
    end

    # The address of the `ns_tls`.
    def pointer # :nodoc:
      @owner.address
    end

    private

    def set_client_ca(file, client_cert)
      Error.checked { |err| Library.ns_tls_set_client_ca_file(pointer, file, required(client_cert), err) }
    end

    def set_alpn(protocols)
      texts = protocols.map { |each| FFI::MemoryPointer.from_string(Text.for_c(each)) }
      Error.check(Library.ns_tls_set_alpn(pointer, texts.map(&:address).pack("J*"), texts.size))
    end

    def required(client_cert)
      { required: 1, optional: 0 }.fetch(client_cert)
    end
  end

  # What a TLS handshake agreed.
  #
  # `version` is "1.2" or "1.3"; `alpn` and `server_name` are nil for none; `certificate` is the
  # client's own in DER, `subject` its subject, "CN=ann,O=Example", both nil where there is none.
  TLSInfo = Struct.new(:version, :cipher_suite, :alpn, :server_name, :resumed, :certificate, :subject,
                       keyword_init: true) do
    # Reads what the connection at an address agreed; nil without TLS.
    def self.read(socket) # :nodoc:
      FFI::MemoryPointer.new(TLSInfoLayout.size) do |place|
        status = Library.ns_socket_tls_info(socket, place, place.size)
        return nil if status == StateError::STATUS

        Error.check(status)
        return new(**TLSInfoLayout.new(place).to_h, **client_of(socket))
      end
    end

    def self.client_of(socket)
      certificate = Text.bytes { |buffer, size| Library.ns_socket_tls_peer_certificate(socket, buffer, size) }
      return {} if certificate.empty?

      subject = Text.read { |buffer, size| Library.ns_socket_tls_peer_subject(socket, buffer, size) }
      { certificate: certificate, subject: subject }
    end
    private_class_method :client_of
  end

  class TLSInfoLayout < FFI::Struct # :nodoc:
    layout :version, :int32, :resumed, :int32, :cipher_suite, [:char, 64], :alpn, [:char, 256],
           :server_name, [:char, 256]

    def to_h
      { version: format("1.%d", self[:version] - 769), resumed: self[:resumed] == 1,
        cipher_suite: text(:cipher_suite), alpn: text(:alpn), server_name: text(:server_name) }
    end

    private

    def text(name)
      text = self[name].to_s.force_encoding("UTF-8")
      text.empty? ? nil : text
    end
  end
  private_constant :TLSInfoLayout
end
