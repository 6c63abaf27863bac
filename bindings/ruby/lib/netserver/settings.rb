# frozen_string_literal: true

module Netserver
  # The settings of a server, as keywords of Server.new. Times are in seconds, sizes in bytes.
  class Settings # :nodoc:
    TIMES = %i[handshake_timeout idle_timeout write_timeout linger_timeout drain_timeout keep_alive].freeze
    COUNTS = %i[max_connections max_per_address accept_rate_per_address accept_burst_per_address ipv4_prefix
                ipv6_prefix backlog max_handshakes unix_mode].freeze
    SIZES = %i[high_water_mark low_water_mark send_limit send_limit_total].freeze
    FLAGS = %i[use_ipv6 reuse_port no_delay].freeze

    TIMES.each { |name| Library.attach_function(:"ns_config_set_#{name}_ms", %i[object uint32], :status) }
    COUNTS.each { |name| Library.attach_function(:"ns_config_set_#{name}", %i[object uint32], :status) }
    SIZES.each { |name| Library.attach_function(:"ns_config_set_#{name}", %i[object size_t], :status) }
    FLAGS.each { |name| Library.attach_function(:"ns_config_set_#{name}", %i[object int32], :status) }

    # Milliseconds, rounded up so that no deadline is early; 0 for nil.
    def self.milliseconds(seconds)
      ((seconds || 0) * 1000).ceil
    end

    def initialize(settings)
      @owner = Library.owner(Library.ns_config_new, :ns_config_free)
      check(:non_blocking, Library.ns_config_set_non_blocking(config, 1))
      settings.each { |name, value| set(name, value) }
    end

    # The address of the `ns_config`.
    def config
      @owner.address
    end

    private

    def set(name, value)
      status =
        case name
        when *TIMES then apply("#{name}_ms", Settings.milliseconds(value))
        when *COUNTS, *SIZES then apply(name, value)
        when *FLAGS then apply(name, value ? 1 : 0)
        when :shutdown_port then Library.ns_config_set_shutdown_port(config, value)
        when :tls then set_tls(value)
        else raise ArgumentError, "unknown setting: #{name}"
        end
      check(name, status)
    end

    def apply(name, value)
      return InvalidError::STATUS if value.negative?

      Library.public_send("ns_config_set_#{name}", config, value)
    end

    def set_tls(tls)
      tls.nil? ? 0 : TLS.of(tls).then { |object| Library.ns_config_set_tls(config, object.pointer) }
    end

    def check(name, status)
      raise Error.of(status, "the setting #{name} is out of its bounds") if status.negative?
    end
  end
end
