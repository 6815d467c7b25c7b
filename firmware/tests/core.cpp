// Runs programs on the core alone. In one process for all tests: a program costs what it takes.

#include <cstdint>
#include <cstring>
#include <random>

// Verilator has ___05F for two underscores.
#include "Vtop.h"
#include "dram.h"
#include "verilated.h"

extern "C" {

struct Program {
  uint64_t code, code_end, packed, packed_end, base, size;
  uint64_t cycles;    // at most, before it is aborted
  uint64_t patience;  // cycles in which it has to end then
  uint64_t seed;      // of stalls of memory; 0: none
};

struct Outcome {
  uint64_t cycles, array, read, written, fault, fault_address;
  uint64_t aborted;
  uint64_t ended;    // 0: not even after it was aborted
  uint64_t strayed;  // transactions that were not allowed
};

void core_run(uint8_t* dram_bytes, uint64_t dram_size, const Program* program, Outcome* outcome) {
  static VerilatedContext context;
  static Vtop model{&context};
  static bool begun = false;
  if (!begun) {
    model.rst = 1;
    for (int i = 0; i < 4; ++i) {
      model.clk = i & 1;
      model.eval();
    }
    model.rst = 0;
    begun = true;
  }
  std::memset(outcome, 0, sizeof *outcome);
  edged::Dram dram(dram_bytes, dram_size);
  std::mt19937_64 random(program->seed);
  auto inside = [](uint64_t address, uint64_t beats, uint64_t begin, uint64_t end) {
    return address >= begin / 64 * 64 && address + 64 * beats <= (end + 63) / 64 * 64;
  };
  model.run___05Fcode = program->code;
  model.run___05Fcode_end = program->code_end;
  model.run___05Fpacked = program->packed;
  model.run___05Fpacked_end = program->packed_end;
  model.run___05Fbase = program->base;
  model.run___05Fsize = program->size;
  model.run___05Fabort = 0;
  uint64_t now = 0;
  for (;; ++now) {
    dram.tick();
    uint64_t luck = program->seed ? random() : ~uint64_t{0};
    bool answers = dram.answers() && (luck & 3);
    bool accepts_write = dram.accepts_write() && (luck >> 2 & 3);
    bool accepts_read = dram.accepts_read() && (luck >> 4 & 3);
    if (answers) std::memcpy(&model.memory___05Fdata___05Fpayload, dram.beat(), 64);
    model.memory___05Fdata___05Fvalid = answers;
    model.memory___05Frequest___05Fready = accepts_read;
    model.memory___05Fwrite___05Fready = accepts_write;
    model.memory___05Fwritten = dram.written();
    model.run___05Fstart = now == 0;
    if (now == program->cycles) {
      model.run___05Fabort = 1;
      outcome->aborted = 1;
    }
    model.clk = 0;
    model.eval();
    bool done = model.run___05Fdone;
    if (answers && model.memory___05Fdata___05Fready) dram.taken();
    dram.starve(model.memory___05Fwrite___05Fvalid && !accepts_write);
    if (model.memory___05Fwrite___05Fvalid && accepts_write) {
      const uint32_t* words = &model.memory___05Fwrite___05Fpayload[0];
      uint64_t address = words[0] | uint64_t(words[1] & 0xff) << 32;
      uint8_t bytes[77];
      std::memcpy(bytes, words, sizeof bytes);
      uint64_t strobe;
      std::memcpy(&strobe, bytes + 69, 8);
      if (inside(address, 1, program->base, program->base + program->size) &&
          dram.holds(address, 1)) {
        dram.write(address, bytes + 5, strobe);
      } else {
        ++outcome->strayed;
      }
    }
    if (model.memory___05Frequest___05Fvalid && accepts_read) {
      uint64_t address = model.memory___05Frequest___05Fpayload & 0xff'ffff'ffff;
      unsigned beats = model.memory___05Frequest___05Fpayload >> 40;
      bool allowed = inside(address, beats, program->base, program->base + program->size) ||
                     inside(address, beats, program->packed, program->packed_end) ||
                     inside(address, beats, program->code, program->code_end);
      if (!allowed || !beats || !dram.holds(address, beats)) {
        ++outcome->strayed;
        address = 0;
      }
      dram.read(address, beats);
    }
    model.clk = 1;
    model.eval();
    if (done) break;
    if (now >= program->cycles + program->patience) return;
  }
  model.clk = 0;
  model.eval();
  outcome->ended = dram.written();
  outcome->cycles = model.run___05Fcycles;
  outcome->array = model.run___05Farray;
  outcome->read = model.run___05Fread;
  outcome->written = model.run___05Fwritten;
  outcome->fault = model.run___05Ffault;
  outcome->fault_address = model.run___05Ffault_address;
}
}
