# frozen_string_literal: true

require "socket"

# A small fiber scheduler, by IO.select: enough for IO, sleep, threads' queues and joins.
class Scheduler
  def initialize
    @readable = {}
    @writable = {}
    @sleeping = {} # until when, by fiber
    @ready = []
    @lock = Mutex.new
    @wakeup, @waker = IO.pipe
  end

  def fiber(&block)
    Fiber.new(blocking: false, &block).tap(&:resume)
  end

  def close
    run
  ensure
    [@wakeup, @waker].each { |io| io.close unless io.closed? }
  end

  def run
    turn until idle?
  end

  def io_wait(io, events, timeout)
    fiber = Fiber.current
    @readable[io] = fiber if events & IO::READABLE != 0
    @writable[io] = fiber if events & IO::WRITABLE != 0
    @sleeping[fiber] = now + timeout if timeout
    Fiber.yield
  ensure
    [@readable, @writable].each { |waiting| waiting.delete(io) }
    @sleeping.delete(fiber)
  end

  def kernel_sleep(time = nil)
    block(:sleep, time)
    true
  end

  def block(_blocker, timeout = nil)
    fiber = Fiber.current
    @sleeping[fiber] = timeout ? now + timeout : Float::INFINITY
    Fiber.yield
  ensure
    @sleeping.delete(fiber)
  end

  def unblock(_blocker, fiber)
    @lock.synchronize { @ready << fiber }
    @waker.write_nonblock(".", exception: false)
  end

  private

  def idle?
    @readable.empty? && @writable.empty? && @sleeping.empty? && @ready.empty?
  end

  def turn
    ready = @lock.synchronize { @ready.slice!(0..) }
    soonest = ready.empty? ? @sleeping.values.min || Float::INFINITY : now
    timeout = soonest.infinite? ? nil : [soonest - now, 0].max
    read, write, = IO.select([@wakeup, *@readable.keys], @writable.keys, [], timeout)
    @wakeup.read_nonblock(100) if read&.delete(@wakeup)
    waiting = { IO::READABLE => read.to_a.map { |io| @readable[io] }, IO::WRITABLE => write.to_a.map { |io| @writable[io] } }
    waiting.each { |event, fibers| fibers.each { |fiber| fiber.resume(event) if fiber.alive? } }
    due = @sleeping.select { |_, time| time <= now }.keys
    (ready + due).uniq.each { |fiber| fiber.resume(false) if fiber.alive? && @sleeping.key?(fiber) }
  end

  def now
    Process.clock_gettime(Process::CLOCK_MONOTONIC)
  end
end
