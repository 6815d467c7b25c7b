// Device DRAM as the NPU sees it: latency, rate, and writes that take their time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <deque>

namespace edged {

constexpr unsigned kBeat = 64;         // bytes
constexpr unsigned kDramLatency = 64;  // cycles from a read to its first beat, and of a write
constexpr unsigned kDramRate = 51;     // bytes that are moved in a cycle: 75 % of 17 GB/s at 250 MHz

// Gives as many bytes a cycle as it is told, and saves up for two beats.
class Bucket {
 public:
  explicit Bucket(unsigned rate) : rate_(rate) {}
  void tick() { level_ = std::min(level_ + rate_, 2 * kBeat); }
  bool has(unsigned beats) const { return level_ >= beats * kBeat; }
  void take() { level_ -= kBeat; }

 private:
  unsigned rate_, level_ = 0;
};

// Writes those bytes of a beat whose strobe is set.
inline void store(uint8_t* to, const uint8_t* beat, uint64_t strobe) {
  if (!~strobe) {
    std::memcpy(to, beat, kBeat);
    return;
  }
  for (unsigned i = 0; i < kBeat; ++i)
    if (strobe >> i & 1) to[i] = beat[i];
}

// In each cycle: tick; look at what it offers; then tell it which transfers happened. A read sees
// the writes that `written` speaks of, of others it may see some.
class Dram {
 public:
  Dram(uint8_t* bytes, uint64_t size, unsigned latency = kDramLatency)
      : bytes_(bytes), size_(size), latency_(latency) {}

  void tick() {
    ++now_;
    bucket_.tick();
    while (!writes_.empty() && writes_.front().at <= now_) {
      const Write& write = writes_.front();
      store(bytes_ + write.address, write.data, write.strobe);
      writes_.pop_front();
    }
    answers_ = !reads_.empty() && reads_.front().at <= now_ && bucket_.has(starved_ ? 2 : 1);
    accepts_write_ = bucket_.has(answers_ ? 2 : 1);
  }

  bool accepts_read() const { return reads_.size() < 64; }
  bool answers() const { return answers_; }
  const uint8_t* beat() const { return bytes_ + reads_.front().address; }
  bool accepts_write() const { return accepts_write_; }
  bool written() const { return writes_.empty(); }

  // Not to be called for what lies outside: the caller says what that means.
  bool holds(uint64_t address, uint64_t beats) const {
    return address % kBeat == 0 && address <= size_ && beats * kBeat <= size_ - address;
  }

  void read(uint64_t address, unsigned beats) {
    reads_.push_back({address, beats, now_ + latency_});
  }
  void taken() {
    bucket_.take();
    Read& read = reads_.front();
    read.address += kBeat;
    if (!--read.beats) reads_.pop_front();
  }
  void write(uint64_t address, const uint8_t* beat, uint64_t strobe) {
    bucket_.take();
    writes_.push_back({address, strobe, now_ + latency_, {}});
    std::memcpy(writes_.back().data, beat, kBeat);
  }
  // A write waits that could not be taken: it comes before the next read.
  void starve(bool waits) { starved_ = waits; }

 private:
  struct Read {
    uint64_t address;
    unsigned beats;
    uint64_t at;
  };
  struct Write {
    uint64_t address, strobe, at;
    uint8_t data[kBeat];
  };

  uint8_t* bytes_;
  uint64_t size_;
  unsigned latency_;
  Bucket bucket_{kDramRate};
  std::deque<Read> reads_;
  std::deque<Write> writes_;
  uint64_t now_ = 0;
  bool answers_ = false, accepts_write_ = false, starved_ = false;
};

}  // namespace edged
