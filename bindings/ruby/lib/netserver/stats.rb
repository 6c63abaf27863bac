# frozen_string_literal: true

module Netserver
  class StatsLayout < FFI::Struct # :nodoc:
    NUMBERS = %i[state non_blocking threads active_threads port shutdown_port].freeze
    TOTALS = %i[uptime_ms accepted attached adopted refused open waiting detached drained cut bytes_in bytes_out
                handler_errors accept_errors handshakes handshake_failures].freeze
    layout(*NUMBERS.flat_map { |name| [name, :uint32] }, *TOTALS.flat_map { |name| [name, :uint64] },
           :closed, [:uint64, 32], :peer_resets, :uint64)
  end
  private_constant :StatsLayout

  # A snapshot of a server: what the members are says `ns_stats` in netserver.h. `closed` has how many
  # connections ended for each reason. When nothing changes: accepted + attached + adopted = open +
  # all of closed + detached.
  Stats = Struct.new(*StatsLayout::TOTALS, :peer_resets, :closed, keyword_init: true) do
    def self.read(server) # :nodoc:
      FFI::MemoryPointer.new(StatsLayout.size) do |place|
        server.check(Library.ns_server_stats(server.pointer, place, place.size))
        layout = StatsLayout.new(place)
        totals = (members - [:closed]).to_h { |name| [name, layout[name]] }
        return new(**totals, closed: reasons(layout[:closed].to_a))
      end
    end

    # The counts that are not zero, by the names of their reasons.
    def self.reasons(counts)
      counts.each_with_index.reject { |count, _| count.zero? }.to_h do |count, reason|
        [Netserver.reason(reason), count]
      end
    end
    private_class_method :reasons
  end
end
