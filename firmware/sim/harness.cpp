// Everything around the NPU: its clock, DRAM, the host's memory, interrupts.
//
// The clock runs in a thread of its own, and stands still while the NPU says that it is idle. Who
// calls from outside waits for a few cycles at most.

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "Vtop.h"
#include "dram.h"
#include "verilated.h"

namespace {

using edged::Bucket;
using edged::Dram;
using edged::kBeat;

constexpr unsigned kHostLatency = 100; // cycles from a read of the host's memory to its first beat
constexpr unsigned kHostRate = 28;     // bytes in a cycle, either way
constexpr unsigned kRegisters = 2;     // cycles that a read takes through decoupled.py
constexpr unsigned kRequests = 16;     // reads that are accepted before the first is answered
constexpr unsigned kBatch = 16;        // cycles before who waits outside gets a turn
constexpr unsigned kSettle = 4;        // cycles after an access, before idle counts
constexpr unsigned kVectors = 3;
constexpr uint64_t kResetCycles = 50'000'000;
constexpr int kRead = 1, kWrite = 2;

struct Read {
  uint64_t address;
  unsigned beats;
  uint64_t at;  // the cycle from which on it may be answered
};

struct Region {
  uint64_t size;
  uint8_t* bytes;
  int rights;
};

class Device {
 public:
  Device(uint64_t dram_bytes, uint64_t gateware_id)
      : model_(&context_),
        dram_bytes_(dram_bytes),
        bytes_(static_cast<uint8_t*>(mmap(nullptr, dram_bytes, PROT_READ | PROT_WRITE,
                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0))),
        dram_(bytes_, dram_bytes, edged::kDramLatency - kRegisters) {
    if (!sound()) return;
    for (int& fd : eventfds_) fd = -1;
    model_.gateware_id = gateware_id;
    model_.temperature_mc = 45'000;
    model_.power_mw = 21'500;
    model_.eval();
    clock_ = std::thread([this] { run(); });
  }

  ~Device() {
    if (!sound()) return;
    access([this] { stopping_ = true; });
    clock_.join();
    for (auto& [address, region] : regions_) munmap(region.bytes, region.size);
    munmap(bytes_, dram_bytes_);
    model_.final();
  }

  bool sound() const { return bytes_ != MAP_FAILED; }

  // Does something between two cycles.
  template <typename Act>
  void access(Act act) {
    ++waiting_;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      --waiting_;
      act();
      settle_ = kSettle;
    }
    changed_.notify_all();
  }

  uint32_t read(uint32_t offset) {
    uint32_t answer;
    access([&] {
      bus(offset, false, 0);
      tick();
      answer = model_.bus_answer;
    });
    return answer;
  }

  void write(uint32_t offset, uint32_t value) {
    access([&] { bus(offset, true, value); });
  }

  bool map(uint64_t address, uint64_t size, int fd, uint64_t offset, int rights) {
    int protection = (rights & kRead ? PROT_READ : 0) | (rights & kWrite ? PROT_WRITE : 0);
    void* bytes = mmap(nullptr, size, protection, MAP_SHARED, fd, offset);
    if (bytes == MAP_FAILED) return false;
    access([&] { regions_[address] = {size, static_cast<uint8_t*>(bytes), rights}; });
    return true;
  }

  bool unmap(uint64_t address) {
    bool found = false;
    access([&] {
      auto region = regions_.find(address);
      if (region == regions_.end()) return;
      munmap(region->second.bytes, region->second.size);
      regions_.erase(region);
      found = true;
    });
    return found;
  }

  void interrupt(unsigned vector, int fd) {
    access([&] {
      if (eventfds_[vector] >= 0) close(eventfds_[vector]);
      eventfds_[vector] = fd < 0 ? -1 : dup(fd);
    });
  }

  bool reset() {
    bool done = false;
    access([&] {
      model_.function_level_reset = 1;
      tick();
      model_.function_level_reset = 0;
      for (uint64_t i = 0; i < kResetCycles && !done; ++i) {
        tick();
        done = !model_.resetting;
      }
    });
    return done;
  }

  uint64_t cycles() {
    uint64_t now;
    access([&] { now = now_; });
    return now;
  }

 private:
  void run() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (!stopping_) {
      if (waiting_ || (model_.idle && !settle_)) {
        changed_.wait(lock, [this] {
          return stopping_ || (!waiting_ && !(model_.idle && !settle_));
        });
        continue;
      }
      for (unsigned i = 0; i < kBatch && !(model_.idle && !settle_); ++i) {
        tick();
        if (settle_) --settle_;
      }
    }
  }

  void bus(uint32_t offset, bool write, uint32_t value) {
    model_.bus_valid = 1;
    model_.bus_write = write;
    model_.bus_address = offset;
    model_.bus_data = value;
    tick();
    model_.bus_valid = 0;
  }

  void tick() {
    // What the world says in this cycle.
    dram_.tick();
    host_read_bucket_.tick();
    host_write_bucket_.tick();
    bool host_answers = due(host_reads_) && host_read_bucket_.has(1);
    if (dram_.answers()) memcpy(&model_.dram_data, dram_.beat(), kBeat);
    if (host_answers) {
      const uint8_t* bytes = find(host_reads_.front().address, kRead);
      model_.host_data_fault = !bytes;
      if (bytes) memcpy(&model_.host_data, bytes, kBeat);
    }
    model_.dram_data_valid = dram_.answers();
    model_.host_data_valid = host_answers;
    model_.dram_request_ready = dram_.accepts_read();
    model_.host_request_ready = host_reads_.size() < kRequests;
    model_.dram_write_ready = dram_.accepts_write();
    model_.host_write_ready = host_write_bucket_.has(1);
    model_.dram_written = dram_.written();
    model_.host_written = 1;
    model_.host_refused = refused_;
    refused_ = false;

    // What the NPU says in it, whatever it is told.
    if (model_.dram_data_ready && model_.dram_data_valid) dram_.taken();
    if (model_.host_data_ready && host_answers) {
      host_read_bucket_.take();
      next(host_reads_);
    }
    dram_.starve(model_.dram_write_valid && !model_.dram_write_ready);
    if (model_.dram_write_valid && model_.dram_write_ready) {
      inside(model_.dram_write_address, 1);
      dram_.write(model_.dram_write_address,
                  reinterpret_cast<const uint8_t*>(&model_.dram_write_data),
                  model_.dram_write_strobe);
    }
    if (model_.host_write_valid && model_.host_write_ready) {
      host_write_bucket_.take();
      uint8_t* bytes = find(model_.host_write_address, kWrite);
      refused_ = !bytes;
      if (bytes) store(bytes, &model_.host_write_data, model_.host_write_strobe);
    }
    if (model_.dram_request_valid && model_.dram_request_ready) {
      inside(model_.dram_request_address, model_.dram_request_beats);
      dram_.read(model_.dram_request_address, model_.dram_request_beats);
    }
    if (model_.host_request_valid && model_.host_request_ready) {
      host_reads_.push_back(
          {model_.host_request_address, model_.host_request_beats, now_ + kHostLatency - kRegisters});
    }
    for (unsigned vector = 0; model_.messages && vector < kVectors; ++vector) {
      if (model_.messages >> vector & 1 && eventfds_[vector] >= 0) {
        uint64_t one = 1;
        if (::write(eventfds_[vector], &one, sizeof one) < 0) continue;  // it counts no further
      }
    }
    model_.clk = 1;
    model_.eval();
    model_.clk = 0;
    model_.eval();
    ++now_;
  }

  bool due(const std::deque<Read>& reads) const {
    return !reads.empty() && reads.front().at <= now_;
  }

  // What lies beyond the end of DRAM is an error of the RTL, which must not be passed over.
  void inside(uint64_t address, uint64_t beats) const {
    if (dram_.holds(address, beats)) return;
    fprintf(stderr, "the NPU is at %#lx of its DRAM, %lu beats\n", address, beats);
    abort();
  }

  // To the next beat.
  static void next(std::deque<Read>& reads) {
    reads.front().address += kBeat;
    if (!--reads.front().beats) reads.pop_front();
  }

  uint8_t* find(uint64_t address, int right) {
    auto region = regions_.upper_bound(address);
    if (region == regions_.begin()) return nullptr;
    --region;
    uint64_t within = address - region->first;
    const Region& found = region->second;
    // Regions are of whole pages.
    return within < found.size && found.rights & right ? found.bytes + within : nullptr;
  }

  // In their order: who sees a byte sees those before it.
  static void store(uint8_t* to, const void* beat, uint64_t strobe) {
    const uint8_t* bytes = static_cast<const uint8_t*>(beat);
    if (!~strobe) {
      memcpy(to, bytes, kBeat);
      return;
    }
    for (unsigned i = 0; i < kBeat; ++i) {
      if (strobe >> i & 1) {
        std::atomic_signal_fence(std::memory_order_seq_cst);
        to[i] = bytes[i];
      }
    }
  }

  VerilatedContext context_;
  Vtop model_;
  uint64_t dram_bytes_;
  uint8_t* bytes_;
  Dram dram_;
  std::map<uint64_t, Region> regions_;
  std::deque<Read> host_reads_;
  Bucket host_read_bucket_{kHostRate}, host_write_bucket_{kHostRate};
  bool refused_ = false;
  int eventfds_[kVectors];
  uint64_t now_ = 0;
  unsigned settle_ = 0;
  bool stopping_ = false;
  std::atomic<unsigned> waiting_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread clock_;
};

}  // namespace

extern "C" {

Device* device_new(uint64_t dram_bytes, uint64_t gateware_id) {
  auto device = std::make_unique<Device>(dram_bytes, gateware_id);
  return device->sound() ? device.release() : nullptr;
}
void device_delete(Device* device) { delete device; }
uint32_t device_read(Device* device, uint32_t offset) { return device->read(offset); }
void device_write(Device* device, uint32_t offset, uint32_t value) {
  device->write(offset, value);
}
int device_map(Device* device, uint64_t address, uint64_t size, int fd, uint64_t offset,
               int rights) {
  return device->map(address, size, fd, offset, rights);
}
int device_unmap(Device* device, uint64_t address) { return device->unmap(address); }
void device_interrupt(Device* device, unsigned vector, int fd) {
  device->interrupt(vector, fd);
}
int device_reset(Device* device) { return device->reset(); }
uint64_t device_cycles(Device* device) { return device->cycles(); }
}
