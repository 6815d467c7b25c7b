/* The contract between edged and its device, made by `make docs`. What each name means
 * is said in docs/board-vendors.md. All values are little endian. */
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

#endif
