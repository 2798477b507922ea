/**
 * The C interface as one table for all runtimes: every function of csrc/include/ctok.h, each parameter trailed by its C
 * declaration. tests/abi checks it against the header and against the library's own symbol table.
 * "buffer" is a typed array whose memory C reads or writes during the call; "callback" a function pointer or null.
 */

export type CType = "u32" | "i32" | "u64" | "buffer" | "callback" | "string";

export interface Signature {
  readonly parameters: readonly CType[];
  readonly result: CType;
}

export const symbols = {
  ctok_version: { parameters: [], result: "string" }, // const char *
  ctok_abi_version: { parameters: [], result: "u32" },
  ctok_status_name: {
    parameters: [
      "i32", // ctok_status status
    ],
    result: "string",
  },

  ctok_engine_open: {
    parameters: [
      "buffer", // const ctok_engine_options *options
      "callback", // ctok_wake wake
      "buffer", // uint32_t *engine
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_engine_ready: {
    parameters: [
      "u32", // uint32_t engine
      "u32", // uint32_t timeout_us
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_engine_query: {
    parameters: [
      "u32", // uint32_t engine
      "buffer", // ctok_engine_info *info
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_engine_wait: {
    parameters: [
      "u32", // uint32_t engine
      "buffer", // uint32_t *jobs
      "u32", // uint32_t capacity
      "buffer", // uint32_t *num_jobs
      "u32", // uint32_t timeout_us
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_engine_close: {
    parameters: [
      "u32", // uint32_t engine
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_device_list: {
    parameters: [
      "u32", // uint32_t engine
      "buffer", // uint32_t *job
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_job_devices: {
    parameters: [
      "u32", // uint32_t job
      "buffer", // ctok_device_info *devices
      "u32", // uint32_t capacity
      "buffer", // uint32_t *num_devices
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_model_open: {
    parameters: [
      "u32", // uint32_t engine
      "buffer", // const char *path
      "buffer", // const ctok_model_options *options
      "buffer", // uint32_t *job
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_model_query: {
    parameters: [
      "u32", // uint32_t model
      "buffer", // ctok_model_info *info
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_model_close: {
    parameters: [
      "u32", // uint32_t model
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_model_convert: {
    parameters: [
      "u32", // uint32_t engine
      "buffer", // const char *out_path
      "buffer", // const char *path
      "buffer", // const ctok_model_options *options
      "buffer", // uint32_t *job
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_plan_query: {
    parameters: [
      "u32", // uint32_t model
      "buffer", // ctok_plan *plan
      "buffer", // const ctok_request *request
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_job_submit: {
    parameters: [
      "u32", // uint32_t model
      "buffer", // const void *input
      "u64", // uint64_t input_bytes
      "buffer", // const ctok_request *request
      "buffer", // uint32_t *job
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_stream_open: {
    parameters: [
      "u32", // uint32_t model
      "buffer", // const ctok_stream_options *options
      "buffer", // uint32_t *stream
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_stream_submit: {
    parameters: [
      "u32", // uint32_t stream
      "buffer", // const void *input
      "u64", // uint64_t input_bytes
      "buffer", // const ctok_request *request
      "buffer", // uint32_t *job
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_stream_close: {
    parameters: [
      "u32", // uint32_t stream
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_job_query: {
    parameters: [
      "u32", // uint32_t job
      "buffer", // ctok_job_info *info
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_job_wait: {
    parameters: [
      "u32", // uint32_t job
      "u32", // uint32_t timeout_us
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_job_take: {
    parameters: [
      "u32", // uint32_t job
      "buffer", // void *out
      "u64", // uint64_t out_bytes
      "u32", // uint32_t index
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_job_steps: {
    parameters: [
      "u32", // uint32_t job
      "buffer", // ctok_step *steps
      "u32", // uint32_t capacity
      "buffer", // uint32_t *num_steps
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_job_cancel: {
    parameters: [
      "u32", // uint32_t job
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
  ctok_job_release: {
    parameters: [
      "u32", // uint32_t job
      "buffer", // ctok_error *error
    ],
    result: "i32",
  },
} as const satisfies Record<string, Signature>;

export type SymbolName = keyof typeof symbols;
