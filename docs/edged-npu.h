/* The contract between edged and its device, made by `make docs`. What each name means
 * is said in docs/board-vendors.md and docs/npu.md. All values are little endian. */
#ifndef EDGED_NPU_H
#define EDGED_NPU_H

#include <stddef.h>
#include <stdint.h>

#define EDGED_MAGIC 0x45474445u
#define EDGED_ABI 0x2u
#define EDGED_PCI_CLASS 0x120000u
#define EDGED_BAR0_SIZE 0x10000u
#define EDGED_MAX_ARRAY_SIZE 0x400u
#define EDGED_BANKS 0x2u
#define EDGED_NO_BANK 0xffffffffu
#define EDGED_QUEUES 0x2u
#define EDGED_QUEUE_MANAGEMENT 0x0u
#define EDGED_QUEUE_DATA 0x1u
#define EDGED_MAX_LOG2_SIZE 0xcu
#define EDGED_RING_ALIGN 0x40u
#define EDGED_FLASH_KEY 0x474f4c44u
#define EDGED_MAX_IMAGE_BYTES 0x40000000u
#define EDGED_MAX_ENTRIES 0x40u
#define EDGED_MAX_FIRMWARE_BYTES 0x4000000u
#define EDGED_MAX_FLASH_WRITE 0x100000u
#define EDGED_FIRMWARE_VERSION 0x1u

/* Registers: offsets in BAR 0. Of a block that is there several times, in number n. */

#define EDGED_REG_MAGIC (0x0000u)
#define EDGED_REG_MAGIC_BITS 32
#define EDGED_REG_ABI (0x0004u)
#define EDGED_REG_ABI_BITS 32
#define EDGED_REG_GATEWARE_ID (0x0008u)
#define EDGED_REG_GATEWARE_ID_BITS 64
#define EDGED_REG_ARRAY_TI (0x0010u)
#define EDGED_REG_ARRAY_TI_BITS 32
#define EDGED_REG_ARRAY_TO (0x0014u)
#define EDGED_REG_ARRAY_TO_BITS 32
#define EDGED_REG_ARRAY_TP (0x0018u)
#define EDGED_REG_ARRAY_TP_BITS 32
#define EDGED_REG_CAPABILITIES (0x001cu)
#define EDGED_REG_CAPABILITIES_BITS 32
#define EDGED_REG_ACTIVATION_BUFFER (0x0020u)
#define EDGED_REG_ACTIVATION_BUFFER_BITS 32
#define EDGED_REG_WEIGHT_BUFFER (0x0024u)
#define EDGED_REG_WEIGHT_BUFFER_BITS 32
#define EDGED_REG_DRAM_SIZE (0x0028u)
#define EDGED_REG_DRAM_SIZE_BITS 64
#define EDGED_REG_SCRATCH (0x0030u)
#define EDGED_REG_SCRATCH_BITS 32
#define EDGED_REG_CLOCK_KHZ (0x0034u)
#define EDGED_REG_CLOCK_KHZ_BITS 32
#define EDGED_REG_COMMAND (0x0100u)
#define EDGED_REG_COMMAND_BITS 32
#define EDGED_REG_STATE (0x0104u)
#define EDGED_REG_STATE_BITS 32
#define EDGED_REG_RESET_CAUSE (0x0108u)
#define EDGED_REG_RESET_CAUSE_BITS 32
#define EDGED_REG_WATCHDOG_MS (0x010cu)
#define EDGED_REG_WATCHDOG_MS_BITS 32
#define EDGED_REG_INTERRUPT_ENABLE (0x0200u)
#define EDGED_REG_INTERRUPT_ENABLE_BITS 3
#define EDGED_REG_INTERRUPT_PENDING (0x0204u)
#define EDGED_REG_INTERRUPT_PENDING_BITS 3
#define EDGED_REG_INTERRUPT_ACK (0x0208u)
#define EDGED_REG_INTERRUPT_ACK_BITS 3
#define EDGED_REG_TEMPERATURE_MC (0x0300u)
#define EDGED_REG_TEMPERATURE_MC_BITS 32
#define EDGED_REG_POWER_MW (0x0304u)
#define EDGED_REG_POWER_MW_BITS 32
#define EDGED_REG_ECC_CORRECTED (0x0308u)
#define EDGED_REG_ECC_CORRECTED_BITS 32
#define EDGED_REG_ECC_UNCORRECTED (0x030cu)
#define EDGED_REG_ECC_UNCORRECTED_BITS 32
#define EDGED_REG_SEU_COUNT (0x0310u)
#define EDGED_REG_SEU_COUNT_BITS 32
#define EDGED_REG_DRAM_CALIBRATED (0x0314u)
#define EDGED_REG_DRAM_CALIBRATED_BITS 1
#define EDGED_REG_FAULT_CODE (0x0318u)
#define EDGED_REG_FAULT_CODE_BITS 32
#define EDGED_REG_FAULT_ADDRESS (0x0320u)
#define EDGED_REG_FAULT_ADDRESS_BITS 64
#define EDGED_REG_TIMEOUTS (0x0328u)
#define EDGED_REG_TIMEOUTS_BITS 32
#define EDGED_REG_CYCLES (0x0400u)
#define EDGED_REG_CYCLES_BITS 64
#define EDGED_REG_BUSY_CYCLES (0x0408u)
#define EDGED_REG_BUSY_CYCLES_BITS 64
#define EDGED_REG_STALL_CYCLES (0x0410u)
#define EDGED_REG_STALL_CYCLES_BITS 64
#define EDGED_REG_BYTES_READ (0x0418u)
#define EDGED_REG_BYTES_READ_BITS 64
#define EDGED_REG_BYTES_WRITTEN (0x0420u)
#define EDGED_REG_BYTES_WRITTEN_BITS 64
#define EDGED_REG_ACTIVE_BANK (0x2400u)
#define EDGED_REG_ACTIVE_BANK_BITS 32

#define EDGED_QUEUE_RING_BASE(n) (0x1000u + (n) * 0x100u)
#define EDGED_QUEUE_RING_BASE_BITS 64
#define EDGED_QUEUE_LOG2_SIZE(n) (0x1008u + (n) * 0x100u)
#define EDGED_QUEUE_LOG2_SIZE_BITS 32
#define EDGED_QUEUE_HEAD(n) (0x100cu + (n) * 0x100u)
#define EDGED_QUEUE_HEAD_BITS 32
#define EDGED_QUEUE_TAIL(n) (0x1010u + (n) * 0x100u)
#define EDGED_QUEUE_TAIL_BITS 32
#define EDGED_QUEUE_COMPLETION_BASE(n) (0x1018u + (n) * 0x100u)
#define EDGED_QUEUE_COMPLETION_BASE_BITS 64
#define EDGED_QUEUE_ERROR(n) (0x1020u + (n) * 0x100u)
#define EDGED_QUEUE_ERROR_BITS 32
#define EDGED_QUEUE_CONTROL(n) (0x1024u + (n) * 0x100u)
#define EDGED_QUEUE_CONTROL_BITS 1

#define EDGED_BANK_DIGEST(n) (0x2000u + (n) * 0x80u)
#define EDGED_BANK_DIGEST_BITS 256
#define EDGED_BANK_BASE(n) (0x2020u + (n) * 0x80u)
#define EDGED_BANK_BASE_BITS 64
#define EDGED_BANK_SIZE(n) (0x2028u + (n) * 0x80u)
#define EDGED_BANK_SIZE_BITS 64
#define EDGED_BANK_STATUS(n) (0x2030u + (n) * 0x80u)
#define EDGED_BANK_STATUS_BITS 32
#define EDGED_BANK_GENERATION(n) (0x2034u + (n) * 0x80u)
#define EDGED_BANK_GENERATION_BITS 32
#define EDGED_BANK_OWNER(n) (0x2038u + (n) * 0x80u)
#define EDGED_BANK_OWNER_BITS 32

#define EDGED_FLASH_STATUS (0x3000u)
#define EDGED_FLASH_STATUS_BITS 32
#define EDGED_FLASH_COMMAND (0x3004u)
#define EDGED_FLASH_COMMAND_BITS 32
#define EDGED_FLASH_REGION (0x3008u)
#define EDGED_FLASH_REGION_BITS 32
#define EDGED_FLASH_LENGTH (0x300cu)
#define EDGED_FLASH_LENGTH_BITS 32
#define EDGED_FLASH_PROGRESS (0x3010u)
#define EDGED_FLASH_PROGRESS_BITS 32
#define EDGED_FLASH_REGION_SIZE (0x3018u)
#define EDGED_FLASH_REGION_SIZE_BITS 32
#define EDGED_FLASH_BOOTED (0x301cu)
#define EDGED_FLASH_BOOTED_BITS 32
#define EDGED_FLASH_SHELL_ID (0x3020u)
#define EDGED_FLASH_SHELL_ID_BITS 64
#define EDGED_FLASH_UNLOCK (0x3028u)
#define EDGED_FLASH_UNLOCK_BITS 32
#define EDGED_FLASH_ROLE_DIGEST (0x3040u)
#define EDGED_FLASH_ROLE_DIGEST_BITS 256
#define EDGED_FLASH_GOLDEN_DIGEST (0x3060u)
#define EDGED_FLASH_GOLDEN_DIGEST_BITS 256

#define EDGED_INJECT_VALUE (0x8000u)
#define EDGED_INJECT_VALUE_BITS 32
#define EDGED_INJECT_MILLISECONDS (0x8004u)
#define EDGED_INJECT_MILLISECONDS_BITS 32
#define EDGED_INJECT_AFTER (0x8008u)
#define EDGED_INJECT_AFTER_BITS 32
#define EDGED_INJECT_TIMES (0x800cu)
#define EDGED_INJECT_TIMES_BITS 32
#define EDGED_INJECT_CHANCE (0x8010u)
#define EDGED_INJECT_CHANCE_BITS 32
#define EDGED_INJECT_ARM (0x8014u)
#define EDGED_INJECT_ARM_BITS 32
#define EDGED_INJECT_STRUCK (0x8018u)
#define EDGED_INJECT_STRUCK_BITS 32

#define EDGED_COMMAND_SOFT_RESET 0x1u
#define EDGED_COMMAND_CLEAR_FAULT 0x2u

#define EDGED_STATE_GOLDEN 0x0u
#define EDGED_STATE_CLEARED 0x1u
#define EDGED_STATE_LOADING 0x2u
#define EDGED_STATE_READY 0x3u
#define EDGED_STATE_RUNNING 0x4u
#define EDGED_STATE_FAULTED 0x5u
#define EDGED_STATE_RESETTING 0x6u
#define EDGED_STATE_INCOMPATIBLE 0x7u

#define EDGED_RESET_CAUSE_POWER_ON 0x0u
#define EDGED_RESET_CAUSE_SOFT 0x1u
#define EDGED_RESET_CAUSE_FUNCTION_LEVEL 0x2u
#define EDGED_RESET_CAUSE_WATCHDOG 0x3u

#define EDGED_FAULT_NONE 0x0u
#define EDGED_FAULT_WATCHDOG 0x1u
#define EDGED_FAULT_DMA 0x2u
#define EDGED_FAULT_DRAM 0x3u
#define EDGED_FAULT_IMAGE 0x4u
#define EDGED_FAULT_OVER_TEMPERATURE 0x5u
#define EDGED_FAULT_INSTRUCTION 0x6u

#define EDGED_OPERATION_DMA_IN 0x1u
#define EDGED_OPERATION_DMA_OUT 0x2u
#define EDGED_OPERATION_LOAD_IMAGE 0x3u
#define EDGED_OPERATION_ACTIVATE_BANK 0x4u
#define EDGED_OPERATION_RUN 0x5u
#define EDGED_OPERATION_FENCE 0x6u
#define EDGED_OPERATION_FLUSH 0x7u
#define EDGED_OPERATION_WRITE_FLASH 0x8u

#define EDGED_STATUS_OK 0x0u
#define EDGED_STATUS_BAD_OPERATION 0x1u
#define EDGED_STATUS_BAD_ADDRESS 0x2u
#define EDGED_STATUS_BAD_LENGTH 0x3u
#define EDGED_STATUS_BAD_CRC 0x4u
#define EDGED_STATUS_BAD_IMAGE 0x5u
#define EDGED_STATUS_INCOMPATIBLE 0x6u
#define EDGED_STATUS_BANK_BUSY 0x7u
#define EDGED_STATUS_NO_IMAGE 0x8u
#define EDGED_STATUS_FAULT 0x9u
#define EDGED_STATUS_ABORTED 0xau
#define EDGED_STATUS_TIMEOUT 0xbu
#define EDGED_STATUS_NO_ROLE 0xcu
#define EDGED_STATUS_BAD_ENTRY 0xdu

#define EDGED_BANK_STATUS_EMPTY 0x0u
#define EDGED_BANK_STATUS_LOADING 0x1u
#define EDGED_BANK_STATUS_VALID 0x2u
#define EDGED_BANK_STATUS_CORRUPT 0x3u

#define EDGED_FLASH_STATUS_IDLE 0x0u
#define EDGED_FLASH_STATUS_BUSY 0x1u
#define EDGED_FLASH_STATUS_LOCKED 0x2u
#define EDGED_FLASH_STATUS_BAD_LENGTH 0x3u
#define EDGED_FLASH_STATUS_BAD_IMAGE 0x4u
#define EDGED_FLASH_STATUS_INCOMPATIBLE 0x5u
#define EDGED_FLASH_STATUS_FAILED 0x6u

#define EDGED_FLASH_COMMAND_ERASE 0x1u
#define EDGED_FLASH_COMMAND_VERIFY 0x2u
#define EDGED_FLASH_COMMAND_BOOT_ROLE 0x3u
#define EDGED_FLASH_COMMAND_BOOT_GOLDEN 0x4u

#define EDGED_FIRMWARE_KIND_ROLE 0x0u
#define EDGED_FIRMWARE_KIND_GOLDEN 0x1u

#define EDGED_INJECTION_HANG 0x1u
#define EDGED_INJECTION_LOST_INTERRUPT 0x2u
#define EDGED_INJECTION_ECC_CORRECTED 0x3u
#define EDGED_INJECTION_ECC_UNCORRECTED 0x4u
#define EDGED_INJECTION_DMA_CRC 0x5u
#define EDGED_INJECTION_TEMPERATURE 0x6u
#define EDGED_INJECTION_LINK_DOWN 0x7u
#define EDGED_INJECTION_REMOVAL 0x8u
#define EDGED_INJECTION_SLOW_LOAD 0x9u
#define EDGED_INJECTION_CORRUPT_BANK 0xau
#define EDGED_INJECTION_LINK_WIDTH 0xbu
#define EDGED_INJECTION_LINK_SPEED 0xcu
#define EDGED_INJECTION_AER_CORRECTABLE 0xdu
#define EDGED_INJECTION_AER_UNCORRECTABLE 0xeu
#define EDGED_INJECTION_DRAM_CALIBRATION 0xfu

#define EDGED_SECTION_ENTRIES 0x1u
#define EDGED_SECTION_LAYERS 0x2u
#define EDGED_SECTION_WEIGHTS 0x3u
#define EDGED_SECTION_CODE 0x4u
#define EDGED_SECTION_PACKED 0x5u

#define EDGED_ELEMENT_TYPE_U8 0x1u
#define EDGED_ELEMENT_TYPE_S8 0x2u
#define EDGED_ELEMENT_TYPE_S16 0x3u

#define EDGED_LAYER_OP_CONV 0x1u
#define EDGED_LAYER_OP_ADD 0x2u
#define EDGED_LAYER_OP_MAXPOOL 0x3u
#define EDGED_LAYER_OP_AVGPOOL 0x4u
#define EDGED_LAYER_OP_CONCAT 0x5u
#define EDGED_LAYER_OP_RESCALE 0x6u
#define EDGED_LAYER_OP_TABLE 0x7u
#define EDGED_LAYER_OP_MUL 0x8u
#define EDGED_LAYER_OP_COPY 0x9u
#define EDGED_LAYER_OP_MATMUL 0xau

#define EDGED_UNIT_LOAD 0x0u
#define EDGED_UNIT_EXECUTE 0x1u
#define EDGED_UNIT_STORE 0x2u

#define EDGED_OPCODE_END 0x0u
#define EDGED_OPCODE_SYNC 0x1u
#define EDGED_OPCODE_LOAD_PLANE 0x2u
#define EDGED_OPCODE_LOAD 0x3u
#define EDGED_OPCODE_LOAD_WEIGHTS 0x4u
#define EDGED_OPCODE_LOAD_MATRIX 0x5u
#define EDGED_OPCODE_FRAME 0x6u
#define EDGED_OPCODE_RESULT 0x7u
#define EDGED_OPCODE_CONV 0x8u
#define EDGED_OPCODE_DEPTHWISE 0x9u
#define EDGED_OPCODE_POOL 0xau
#define EDGED_OPCODE_VECTOR 0xbu
#define EDGED_OPCODE_TABLE 0xcu
#define EDGED_OPCODE_STORE_PLANE 0xdu
#define EDGED_OPCODE_STORE 0xeu

#define EDGED_CAPABILITY_FAULT_INJECTION 0x1u
#define EDGED_CAPABILITY_MODELLED_PACE 0x2u
#define EDGED_CAPABILITY_FLASH 0x4u
#define EDGED_CAPABILITY_MODELLED_READINGS 0x8u

#define EDGED_INTERRUPT_EVENT 0x1u
#define EDGED_INTERRUPT_MANAGEMENT 0x2u
#define EDGED_INTERRUPT_DATA 0x4u

#define EDGED_QUEUE_CONTROL_ENABLE 0x1u

#define EDGED_DESCRIPTOR_FLAG_INTERRUPT 0x1u
#define EDGED_DESCRIPTOR_FLAG_CRC 0x2u

#define EDGED_FLAG_FIRST 0x1u
#define EDGED_FLAG_LAST 0x2u
#define EDGED_FLAG_SHARED 0x4u
#define EDGED_FLAG_MAXIMUM 0x8u
#define EDGED_FLAG_ADD 0x10u
#define EDGED_FLAG_MULTIPLY 0x20u
#define EDGED_FLAG_SPREAD 0x40u
#define EDGED_FLAG_OFFSET 0x80u

/* How long edged waits, in milliseconds. */
#define EDGED_TIMING_QUEUE_ABORT_MS 2000u
#define EDGED_TIMING_QUEUE_HANDOVER_MS 15000u
#define EDGED_TIMING_SOFT_RESET_MS 2000u
#define EDGED_TIMING_FUNCTION_LEVEL_RESET_MS 15000u
#define EDGED_TIMING_FENCE_MS 2000u
#define EDGED_TIMING_LOAD_IMAGE_MS 120000u
#define EDGED_TIMING_ACTIVATE_BANK_MS 30000u
#define EDGED_TIMING_LOST_INTERRUPT_MS 20u
#define EDGED_TIMING_WRITE_FLASH_MS 10000u
#define EDGED_TIMING_FLASH_PROGRESS_MS 10000u
#define EDGED_TIMING_BOOT_MS 30000u

struct __attribute__((packed)) edged_descriptor {
    uint8_t op;
    uint8_t flags;
    uint16_t tag;
    uint32_t length;
    uint64_t host_address;
    uint64_t device_address;
    uint32_t crc;
    uint8_t padding[4];
};
_Static_assert(sizeof(struct edged_descriptor) == 32, "edged_descriptor");
_Static_assert(offsetof(struct edged_descriptor, op) == 0, "op");
_Static_assert(offsetof(struct edged_descriptor, flags) == 1, "flags");
_Static_assert(offsetof(struct edged_descriptor, tag) == 2, "tag");
_Static_assert(offsetof(struct edged_descriptor, length) == 4, "length");
_Static_assert(offsetof(struct edged_descriptor, host_address) == 8, "host_address");
_Static_assert(offsetof(struct edged_descriptor, device_address) == 16, "device_address");
_Static_assert(offsetof(struct edged_descriptor, crc) == 24, "crc");

struct __attribute__((packed)) edged_completion {
    uint16_t tag;
    uint16_t status;
    uint64_t cycles;
    uint32_t sequence;
};
_Static_assert(sizeof(struct edged_completion) == 16, "edged_completion");
_Static_assert(offsetof(struct edged_completion, tag) == 0, "tag");
_Static_assert(offsetof(struct edged_completion, status) == 2, "status");
_Static_assert(offsetof(struct edged_completion, cycles) == 4, "cycles");
_Static_assert(offsetof(struct edged_completion, sequence) == 12, "sequence");

struct __attribute__((packed)) edged_image_header {
    uint8_t magic[8];
    uint16_t abi;
    uint16_t ti;
    uint16_t to;
    uint16_t tp;
    uint32_t sections;
    uint32_t reserved;
    uint64_t dram_bytes;
    uint64_t file_bytes;
    uint32_t activation_buffer;
    uint32_t weight_buffer;
    uint32_t accumulators;
    uint32_t reserved2;
    uint8_t digest[32];
};
_Static_assert(sizeof(struct edged_image_header) == 88, "edged_image_header");
_Static_assert(offsetof(struct edged_image_header, magic) == 0, "magic");
_Static_assert(offsetof(struct edged_image_header, abi) == 8, "abi");
_Static_assert(offsetof(struct edged_image_header, ti) == 10, "ti");
_Static_assert(offsetof(struct edged_image_header, to) == 12, "to");
_Static_assert(offsetof(struct edged_image_header, tp) == 14, "tp");
_Static_assert(offsetof(struct edged_image_header, sections) == 16, "sections");
_Static_assert(offsetof(struct edged_image_header, reserved) == 20, "reserved");
_Static_assert(offsetof(struct edged_image_header, dram_bytes) == 24, "dram_bytes");
_Static_assert(offsetof(struct edged_image_header, file_bytes) == 32, "file_bytes");
_Static_assert(offsetof(struct edged_image_header, activation_buffer) == 40, "activation_buffer");
_Static_assert(offsetof(struct edged_image_header, weight_buffer) == 44, "weight_buffer");
_Static_assert(offsetof(struct edged_image_header, accumulators) == 48, "accumulators");
_Static_assert(offsetof(struct edged_image_header, reserved2) == 52, "reserved2");
_Static_assert(offsetof(struct edged_image_header, digest) == 56, "digest");

struct __attribute__((packed)) edged_image_section {
    uint32_t kind;
    uint32_t crc;
    uint64_t offset;
    uint64_t length;
};
_Static_assert(sizeof(struct edged_image_section) == 24, "edged_image_section");
_Static_assert(offsetof(struct edged_image_section, kind) == 0, "kind");
_Static_assert(offsetof(struct edged_image_section, crc) == 4, "crc");
_Static_assert(offsetof(struct edged_image_section, offset) == 8, "offset");
_Static_assert(offsetof(struct edged_image_section, length) == 16, "length");

struct __attribute__((packed)) edged_image_entry {
    uint32_t first;
    uint32_t last;
    uint16_t inputs;
    uint16_t outputs;
    uint32_t instruction;
};
_Static_assert(sizeof(struct edged_image_entry) == 16, "edged_image_entry");
_Static_assert(offsetof(struct edged_image_entry, first) == 0, "first");
_Static_assert(offsetof(struct edged_image_entry, last) == 4, "last");
_Static_assert(offsetof(struct edged_image_entry, inputs) == 8, "inputs");
_Static_assert(offsetof(struct edged_image_entry, outputs) == 10, "outputs");
_Static_assert(offsetof(struct edged_image_entry, instruction) == 12, "instruction");

struct __attribute__((packed)) edged_image_tensor {
    uint8_t dtype;
    int8_t exponent;
    uint16_t name_length;
    uint32_t height;
    uint32_t width;
    uint32_t channels;
    uint64_t address;
};
_Static_assert(sizeof(struct edged_image_tensor) == 24, "edged_image_tensor");
_Static_assert(offsetof(struct edged_image_tensor, dtype) == 0, "dtype");
_Static_assert(offsetof(struct edged_image_tensor, exponent) == 1, "exponent");
_Static_assert(offsetof(struct edged_image_tensor, name_length) == 2, "name_length");
_Static_assert(offsetof(struct edged_image_tensor, height) == 4, "height");
_Static_assert(offsetof(struct edged_image_tensor, width) == 8, "width");
_Static_assert(offsetof(struct edged_image_tensor, channels) == 12, "channels");
_Static_assert(offsetof(struct edged_image_tensor, address) == 16, "address");

struct __attribute__((packed)) edged_image_layer {
    uint8_t op;
    uint8_t per_channel;
    uint16_t inputs;
    uint32_t output;
    uint16_t name_length;
    uint16_t reserved;
    uint16_t kernel[2];
    uint16_t stride[2];
    uint16_t dilation[2];
    uint16_t pad[4];
    uint32_t groups;
    int32_t lo;
    int32_t hi;
    uint32_t multiplier;
    uint64_t weights;
    uint64_t biases;
    uint64_t shifts;
    uint32_t rows;
    uint16_t grid[4];
    uint16_t loops;
    uint16_t reserved2;
    uint32_t copy_source;
    uint32_t copy_target;
};
_Static_assert(sizeof(struct edged_image_layer) == 96, "edged_image_layer");
_Static_assert(offsetof(struct edged_image_layer, op) == 0, "op");
_Static_assert(offsetof(struct edged_image_layer, per_channel) == 1, "per_channel");
_Static_assert(offsetof(struct edged_image_layer, inputs) == 2, "inputs");
_Static_assert(offsetof(struct edged_image_layer, output) == 4, "output");
_Static_assert(offsetof(struct edged_image_layer, name_length) == 8, "name_length");
_Static_assert(offsetof(struct edged_image_layer, reserved) == 10, "reserved");
_Static_assert(offsetof(struct edged_image_layer, kernel) == 12, "kernel");
_Static_assert(offsetof(struct edged_image_layer, stride) == 16, "stride");
_Static_assert(offsetof(struct edged_image_layer, dilation) == 20, "dilation");
_Static_assert(offsetof(struct edged_image_layer, pad) == 24, "pad");
_Static_assert(offsetof(struct edged_image_layer, groups) == 32, "groups");
_Static_assert(offsetof(struct edged_image_layer, lo) == 36, "lo");
_Static_assert(offsetof(struct edged_image_layer, hi) == 40, "hi");
_Static_assert(offsetof(struct edged_image_layer, multiplier) == 44, "multiplier");
_Static_assert(offsetof(struct edged_image_layer, weights) == 48, "weights");
_Static_assert(offsetof(struct edged_image_layer, biases) == 56, "biases");
_Static_assert(offsetof(struct edged_image_layer, shifts) == 64, "shifts");
_Static_assert(offsetof(struct edged_image_layer, rows) == 72, "rows");
_Static_assert(offsetof(struct edged_image_layer, grid) == 76, "grid");
_Static_assert(offsetof(struct edged_image_layer, loops) == 84, "loops");
_Static_assert(offsetof(struct edged_image_layer, reserved2) == 86, "reserved2");
_Static_assert(offsetof(struct edged_image_layer, copy_source) == 88, "copy_source");
_Static_assert(offsetof(struct edged_image_layer, copy_target) == 92, "copy_target");

struct __attribute__((packed)) edged_image_operand {
    uint32_t tensor;
};
_Static_assert(sizeof(struct edged_image_operand) == 4, "edged_image_operand");
_Static_assert(offsetof(struct edged_image_operand, tensor) == 0, "tensor");

struct __attribute__((packed)) edged_image_loop {
    uint32_t count;
    uint32_t source;
    uint32_t target;
};
_Static_assert(sizeof(struct edged_image_loop) == 12, "edged_image_loop");
_Static_assert(offsetof(struct edged_image_loop, count) == 0, "count");
_Static_assert(offsetof(struct edged_image_loop, source) == 4, "source");
_Static_assert(offsetof(struct edged_image_loop, target) == 8, "target");

struct __attribute__((packed)) edged_firmware_header {
    uint8_t magic[8];
    uint16_t version;
    uint16_t kind;
    uint16_t abi;
    uint16_t ti;
    uint16_t to;
    uint16_t tp;
    uint32_t length;
    uint8_t shell[8];
    uint8_t digest[32];
    uint8_t name[32];
    uint8_t reserved[28];
    uint32_t crc;
};
_Static_assert(sizeof(struct edged_firmware_header) == 128, "edged_firmware_header");
_Static_assert(offsetof(struct edged_firmware_header, magic) == 0, "magic");
_Static_assert(offsetof(struct edged_firmware_header, version) == 8, "version");
_Static_assert(offsetof(struct edged_firmware_header, kind) == 10, "kind");
_Static_assert(offsetof(struct edged_firmware_header, abi) == 12, "abi");
_Static_assert(offsetof(struct edged_firmware_header, ti) == 14, "ti");
_Static_assert(offsetof(struct edged_firmware_header, to) == 16, "to");
_Static_assert(offsetof(struct edged_firmware_header, tp) == 18, "tp");
_Static_assert(offsetof(struct edged_firmware_header, length) == 20, "length");
_Static_assert(offsetof(struct edged_firmware_header, shell) == 24, "shell");
_Static_assert(offsetof(struct edged_firmware_header, digest) == 32, "digest");
_Static_assert(offsetof(struct edged_firmware_header, name) == 64, "name");
_Static_assert(offsetof(struct edged_firmware_header, reserved) == 96, "reserved");
_Static_assert(offsetof(struct edged_firmware_header, crc) == 124, "crc");

struct __attribute__((packed)) edged_channel {
    int32_t bias;
    uint8_t shift;
    uint8_t left;
    uint8_t second_left;
    uint8_t reserved;
};
_Static_assert(sizeof(struct edged_channel) == 8, "edged_channel");
_Static_assert(offsetof(struct edged_channel, bias) == 0, "bias");
_Static_assert(offsetof(struct edged_channel, shift) == 4, "shift");
_Static_assert(offsetof(struct edged_channel, left) == 5, "left");
_Static_assert(offsetof(struct edged_channel, second_left) == 6, "second_left");
_Static_assert(offsetof(struct edged_channel, reserved) == 7, "reserved");

struct __attribute__((packed)) edged_end {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint8_t padding[28];
};
_Static_assert(sizeof(struct edged_end) == 32, "edged_end");
_Static_assert(offsetof(struct edged_end, op) == 0, "op");
_Static_assert(offsetof(struct edged_end, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_end, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_end, flags) == 3, "flags");

struct __attribute__((packed)) edged_sync {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint8_t padding[28];
};
_Static_assert(sizeof(struct edged_sync) == 32, "edged_sync");
_Static_assert(offsetof(struct edged_sync, op) == 0, "op");
_Static_assert(offsetof(struct edged_sync, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_sync, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_sync, flags) == 3, "flags");

struct __attribute__((packed)) edged_load_plane {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint16_t height;
    uint16_t width;
    uint32_t row_bytes;
    uint32_t pixel_bytes;
    uint8_t lanes_across;
    uint8_t wide;
    uint16_t fill;
    uint16_t lane_rows;
    uint16_t lane_columns;
    uint16_t buffer_row;
    uint16_t buffer_pixel;
    uint8_t padding[4];
};
_Static_assert(sizeof(struct edged_load_plane) == 32, "edged_load_plane");
_Static_assert(offsetof(struct edged_load_plane, op) == 0, "op");
_Static_assert(offsetof(struct edged_load_plane, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_load_plane, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_load_plane, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_load_plane, height) == 4, "height");
_Static_assert(offsetof(struct edged_load_plane, width) == 6, "width");
_Static_assert(offsetof(struct edged_load_plane, row_bytes) == 8, "row_bytes");
_Static_assert(offsetof(struct edged_load_plane, pixel_bytes) == 12, "pixel_bytes");
_Static_assert(offsetof(struct edged_load_plane, lanes_across) == 16, "lanes_across");
_Static_assert(offsetof(struct edged_load_plane, wide) == 17, "wide");
_Static_assert(offsetof(struct edged_load_plane, fill) == 18, "fill");
_Static_assert(offsetof(struct edged_load_plane, lane_rows) == 20, "lane_rows");
_Static_assert(offsetof(struct edged_load_plane, lane_columns) == 22, "lane_columns");
_Static_assert(offsetof(struct edged_load_plane, buffer_row) == 24, "buffer_row");
_Static_assert(offsetof(struct edged_load_plane, buffer_pixel) == 26, "buffer_pixel");

struct __attribute__((packed)) edged_load {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint32_t address;
    uint32_t buffer;
    int16_t row;
    int16_t column;
    uint16_t rows;
    uint16_t columns;
    uint32_t bytes;
    uint8_t padding[8];
};
_Static_assert(sizeof(struct edged_load) == 32, "edged_load");
_Static_assert(offsetof(struct edged_load, op) == 0, "op");
_Static_assert(offsetof(struct edged_load, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_load, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_load, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_load, address) == 4, "address");
_Static_assert(offsetof(struct edged_load, buffer) == 8, "buffer");
_Static_assert(offsetof(struct edged_load, row) == 12, "row");
_Static_assert(offsetof(struct edged_load, column) == 14, "column");
_Static_assert(offsetof(struct edged_load, rows) == 16, "rows");
_Static_assert(offsetof(struct edged_load, columns) == 18, "columns");
_Static_assert(offsetof(struct edged_load, bytes) == 20, "bytes");

struct __attribute__((packed)) edged_load_weights {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint32_t address;
    uint32_t buffer;
    uint32_t words;
    uint8_t padding[16];
};
_Static_assert(sizeof(struct edged_load_weights) == 32, "edged_load_weights");
_Static_assert(offsetof(struct edged_load_weights, op) == 0, "op");
_Static_assert(offsetof(struct edged_load_weights, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_load_weights, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_load_weights, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_load_weights, address) == 4, "address");
_Static_assert(offsetof(struct edged_load_weights, buffer) == 8, "buffer");
_Static_assert(offsetof(struct edged_load_weights, words) == 12, "words");

struct __attribute__((packed)) edged_load_matrix {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint32_t address;
    uint32_t buffer;
    uint32_t row_bytes;
    uint16_t rows;
    uint16_t columns;
    uint8_t padding[12];
};
_Static_assert(sizeof(struct edged_load_matrix) == 32, "edged_load_matrix");
_Static_assert(offsetof(struct edged_load_matrix, op) == 0, "op");
_Static_assert(offsetof(struct edged_load_matrix, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_load_matrix, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_load_matrix, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_load_matrix, address) == 4, "address");
_Static_assert(offsetof(struct edged_load_matrix, buffer) == 8, "buffer");
_Static_assert(offsetof(struct edged_load_matrix, row_bytes) == 12, "row_bytes");
_Static_assert(offsetof(struct edged_load_matrix, rows) == 16, "rows");
_Static_assert(offsetof(struct edged_load_matrix, columns) == 18, "columns");

struct __attribute__((packed)) edged_frame {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint16_t rows;
    uint16_t columns;
    uint16_t blocks;
    uint16_t source_row;
    uint16_t source_column;
    uint16_t source_block;
    uint16_t target_row;
    uint16_t target_column;
    uint16_t target_block;
    uint16_t kernel_rows;
    uint16_t kernel_columns;
    uint16_t kernel_blocks;
    uint16_t kernel_row;
    uint16_t kernel_column;
};
_Static_assert(sizeof(struct edged_frame) == 32, "edged_frame");
_Static_assert(offsetof(struct edged_frame, op) == 0, "op");
_Static_assert(offsetof(struct edged_frame, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_frame, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_frame, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_frame, rows) == 4, "rows");
_Static_assert(offsetof(struct edged_frame, columns) == 6, "columns");
_Static_assert(offsetof(struct edged_frame, blocks) == 8, "blocks");
_Static_assert(offsetof(struct edged_frame, source_row) == 10, "source_row");
_Static_assert(offsetof(struct edged_frame, source_column) == 12, "source_column");
_Static_assert(offsetof(struct edged_frame, source_block) == 14, "source_block");
_Static_assert(offsetof(struct edged_frame, target_row) == 16, "target_row");
_Static_assert(offsetof(struct edged_frame, target_column) == 18, "target_column");
_Static_assert(offsetof(struct edged_frame, target_block) == 20, "target_block");
_Static_assert(offsetof(struct edged_frame, kernel_rows) == 22, "kernel_rows");
_Static_assert(offsetof(struct edged_frame, kernel_columns) == 24, "kernel_columns");
_Static_assert(offsetof(struct edged_frame, kernel_blocks) == 26, "kernel_blocks");
_Static_assert(offsetof(struct edged_frame, kernel_row) == 28, "kernel_row");
_Static_assert(offsetof(struct edged_frame, kernel_column) == 30, "kernel_column");

struct __attribute__((packed)) edged_result {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint8_t source_type;
    uint8_t second_type;
    uint8_t target_type;
    uint8_t reserved;
    int16_t lo;
    int16_t hi;
    uint32_t multiplier;
    uint16_t second_row;
    uint16_t second_column;
    uint16_t second_block;
    uint8_t padding[10];
};
_Static_assert(sizeof(struct edged_result) == 32, "edged_result");
_Static_assert(offsetof(struct edged_result, op) == 0, "op");
_Static_assert(offsetof(struct edged_result, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_result, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_result, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_result, source_type) == 4, "source_type");
_Static_assert(offsetof(struct edged_result, second_type) == 5, "second_type");
_Static_assert(offsetof(struct edged_result, target_type) == 6, "target_type");
_Static_assert(offsetof(struct edged_result, reserved) == 7, "reserved");
_Static_assert(offsetof(struct edged_result, lo) == 8, "lo");
_Static_assert(offsetof(struct edged_result, hi) == 10, "hi");
_Static_assert(offsetof(struct edged_result, multiplier) == 12, "multiplier");
_Static_assert(offsetof(struct edged_result, second_row) == 16, "second_row");
_Static_assert(offsetof(struct edged_result, second_column) == 18, "second_column");
_Static_assert(offsetof(struct edged_result, second_block) == 20, "second_block");

struct __attribute__((packed)) edged_conv {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint32_t source;
    uint32_t target;
    uint32_t weights;
    uint8_t padding[16];
};
_Static_assert(sizeof(struct edged_conv) == 32, "edged_conv");
_Static_assert(offsetof(struct edged_conv, op) == 0, "op");
_Static_assert(offsetof(struct edged_conv, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_conv, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_conv, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_conv, source) == 4, "source");
_Static_assert(offsetof(struct edged_conv, target) == 8, "target");
_Static_assert(offsetof(struct edged_conv, weights) == 12, "weights");

struct __attribute__((packed)) edged_depthwise {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint32_t source;
    uint32_t target;
    uint32_t weights;
    uint8_t padding[16];
};
_Static_assert(sizeof(struct edged_depthwise) == 32, "edged_depthwise");
_Static_assert(offsetof(struct edged_depthwise, op) == 0, "op");
_Static_assert(offsetof(struct edged_depthwise, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_depthwise, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_depthwise, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_depthwise, source) == 4, "source");
_Static_assert(offsetof(struct edged_depthwise, target) == 8, "target");
_Static_assert(offsetof(struct edged_depthwise, weights) == 12, "weights");

struct __attribute__((packed)) edged_pool {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint32_t source;
    uint32_t target;
    uint32_t weights;
    uint8_t padding[16];
};
_Static_assert(sizeof(struct edged_pool) == 32, "edged_pool");
_Static_assert(offsetof(struct edged_pool, op) == 0, "op");
_Static_assert(offsetof(struct edged_pool, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_pool, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_pool, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_pool, source) == 4, "source");
_Static_assert(offsetof(struct edged_pool, target) == 8, "target");
_Static_assert(offsetof(struct edged_pool, weights) == 12, "weights");

struct __attribute__((packed)) edged_vector {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint32_t source;
    uint32_t target;
    uint32_t weights;
    uint32_t second;
    uint8_t padding[12];
};
_Static_assert(sizeof(struct edged_vector) == 32, "edged_vector");
_Static_assert(offsetof(struct edged_vector, op) == 0, "op");
_Static_assert(offsetof(struct edged_vector, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_vector, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_vector, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_vector, source) == 4, "source");
_Static_assert(offsetof(struct edged_vector, target) == 8, "target");
_Static_assert(offsetof(struct edged_vector, weights) == 12, "weights");
_Static_assert(offsetof(struct edged_vector, second) == 16, "second");

struct __attribute__((packed)) edged_table {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint32_t source;
    uint32_t target;
    uint32_t weights;
    uint8_t padding[16];
};
_Static_assert(sizeof(struct edged_table) == 32, "edged_table");
_Static_assert(offsetof(struct edged_table, op) == 0, "op");
_Static_assert(offsetof(struct edged_table, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_table, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_table, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_table, source) == 4, "source");
_Static_assert(offsetof(struct edged_table, target) == 8, "target");
_Static_assert(offsetof(struct edged_table, weights) == 12, "weights");

struct __attribute__((packed)) edged_store_plane {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint16_t height;
    uint16_t width;
    uint32_t row_bytes;
    uint32_t pixel_bytes;
    uint8_t lanes_across;
    uint8_t wide;
    uint16_t fill;
    uint16_t lane_rows;
    uint16_t lane_columns;
    uint16_t buffer_row;
    uint16_t buffer_pixel;
    uint8_t padding[4];
};
_Static_assert(sizeof(struct edged_store_plane) == 32, "edged_store_plane");
_Static_assert(offsetof(struct edged_store_plane, op) == 0, "op");
_Static_assert(offsetof(struct edged_store_plane, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_store_plane, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_store_plane, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_store_plane, height) == 4, "height");
_Static_assert(offsetof(struct edged_store_plane, width) == 6, "width");
_Static_assert(offsetof(struct edged_store_plane, row_bytes) == 8, "row_bytes");
_Static_assert(offsetof(struct edged_store_plane, pixel_bytes) == 12, "pixel_bytes");
_Static_assert(offsetof(struct edged_store_plane, lanes_across) == 16, "lanes_across");
_Static_assert(offsetof(struct edged_store_plane, wide) == 17, "wide");
_Static_assert(offsetof(struct edged_store_plane, fill) == 18, "fill");
_Static_assert(offsetof(struct edged_store_plane, lane_rows) == 20, "lane_rows");
_Static_assert(offsetof(struct edged_store_plane, lane_columns) == 22, "lane_columns");
_Static_assert(offsetof(struct edged_store_plane, buffer_row) == 24, "buffer_row");
_Static_assert(offsetof(struct edged_store_plane, buffer_pixel) == 26, "buffer_pixel");

struct __attribute__((packed)) edged_store {
    uint8_t op;
    uint8_t wait;
    uint8_t signal;
    uint8_t flags;
    uint32_t address;
    uint32_t buffer;
    int16_t row;
    int16_t column;
    uint16_t rows;
    uint16_t columns;
    uint32_t bytes;
    uint8_t padding[8];
};
_Static_assert(sizeof(struct edged_store) == 32, "edged_store");
_Static_assert(offsetof(struct edged_store, op) == 0, "op");
_Static_assert(offsetof(struct edged_store, wait) == 1, "wait");
_Static_assert(offsetof(struct edged_store, signal) == 2, "signal");
_Static_assert(offsetof(struct edged_store, flags) == 3, "flags");
_Static_assert(offsetof(struct edged_store, address) == 4, "address");
_Static_assert(offsetof(struct edged_store, buffer) == 8, "buffer");
_Static_assert(offsetof(struct edged_store, row) == 12, "row");
_Static_assert(offsetof(struct edged_store, column) == 14, "column");
_Static_assert(offsetof(struct edged_store, rows) == 16, "rows");
_Static_assert(offsetof(struct edged_store, columns) == 18, "columns");
_Static_assert(offsetof(struct edged_store, bytes) == 20, "bytes");

#endif
