/* ctok: images and videos to Cosmos tokens and back. The whole C interface; this file is its
 * manual. Note: over 400 lines, as C programs include one header.
 *
 * Life of a program
 *     ctok_engine_open    starts one native thread that runs the jobs of its models in turn
 *     ctok_model_open     submit: a job that ends with a model id      (job: wait, query, release)
 *     ctok_plan_query     what a request will need and return, before any work
 *     ctok_job_submit     submit: encode, decode or autoencode         (job: wait, take, release)
 *     ctok_stream_open    a video in chunks, as one clip: each submit carries the state on
 *     ctok_model_close, ctok_engine_close
 *
 * Two kinds of function. Instant ones never wait (well under 1 ms). Submitting ones copy their
 * input (the caller's memory is free again on return) and give a job id; the work happens on the
 * engine's thread. Any function may be called from any thread. Only ctok_job_wait, ctok_engine_wait
 * and ctok_engine_ready block, and only when given a timeout; ctok_engine_open waits for the device
 * unless told not to, and ctok_engine_close joins.
 *
 * Handles are uint32_t ids: 0 is none, none is ever used twice, a stale one gives CTOK_E_HANDLE. So
 * does, in a child of fork(), every id of its parent, whose threads are not there: open an engine
 * in the child. (What the parent's took stays in its memory. CUDA cannot be used after a fork where
 * the parent used it: there, a child's engine is the CPU's, or CTOK_E_DEVICE.) Structs begin with
 * struct_size = sizeof(the struct), set by the caller; 0 in any other field means its default.
 * Strings are UTF-8 and end with NUL. Sizes named _bytes count bytes.
 * Errors: the last parameter is the caller's ctok_error or NULL; it is written only on failure. A
 * job keeps its own error. The library prints nothing, reads no environment variable, installs no
 * signal handler and never exits.
 */
#ifndef CTOK_H
#define CTOK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CTOK_API __attribute__((visibility("default")))
/* One more whenever a program built against the header before would read or write wrongly, or meet
 * another meaning: a field, a number or a function that is new, gone or moved. A caller compares it
 * with ctok_abi_version before anything else. */
#define CTOK_ABI_VERSION 7u

/* ---------------------------------------------------------------- status
 * Pinned numbers, grouped by who can fix it. */
typedef int32_t ctok_status;
enum {
    CTOK_OK = 0,
    /* the caller */
    CTOK_E_ARGUMENT = 101,    /* a NULL, an unknown enum value, an option out of range */
    CTOK_E_STRUCT_SIZE = 102, /* struct_size is not that of this library's header */
    CTOK_E_HANDLE = 103,      /* an id that was never given, or is closed or released */
    CTOK_E_SHAPE = 104, /* sizes that the network cannot take, or input_bytes that do not match them
                         */
    CTOK_E_VALUE = 105, /* an index outside 0 .. codebook_size - 1; detail: its position in the
                           input */
    CTOK_E_CAPACITY = 106,    /* the output buffer is too small; detail: the bytes needed */
    CTOK_E_UNSUPPORTED = 107, /* asked for what this model or this build does not have */
    /* the file */
    CTOK_E_FILE_MISSING = 201, /* no such file, or a folder without a checkpoint */
    CTOK_E_FILE_IO = 202,      /* the system refused a read or a write (detail: errno) */
    CTOK_E_FILE_FORMAT = 203,  /* not a checkpoint, or a damaged one (detail: the byte offset where
                                  known) */
    CTOK_E_FILE_TENSOR = 204,  /* a tensor is missing, unexpected, or of the wrong shape or type */
    CTOK_E_FILE_NETWORK = 205, /* the tensors do not make a tokenizer that this library knows */
    /* the machine */
    CTOK_E_MEMORY = 301, /* out of memory (detail: bytes asked for) */
    CTOK_E_DEVICE = 302, /* the device or instruction set asked for is not there, or was lost */
    CTOK_E_THREAD = 303, /* the system refused a thread (detail: errno) */
    /* the flow */
    CTOK_E_CANCELLED = 401, /* ctok_job_cancel */
    CTOK_E_CLOSED = 402,    /* the model or engine was closed before the job ran */
    CTOK_E_NOT_READY = 403, /* the job has not ended (within the timeout) */
    /* us */
    CTOK_E_INTERNAL = 501
};

typedef struct {
    uint32_t struct_size;
    ctok_status status;
    int64_t detail;     /* a number for programs; its meaning stands beside each status */
    char message[1008]; /* what was expected and what was found */
} ctok_error;

/* ---------------------------------------------------------------- element types */
typedef int32_t ctok_dtype;
enum {
    CTOK_U8 = 1,
    CTOK_I8,
    CTOK_BOOL,
    CTOK_U16,
    CTOK_I16,
    CTOK_I32,
    CTOK_I64,
    CTOK_F16,
    CTOK_BF16,
    CTOK_F32,
    CTOK_F64
};

/* ---------------------------------------------------------------- library */
CTOK_API const char *ctok_version(void);                   /* "0.1.0"; static storage */
CTOK_API uint32_t ctok_abi_version(void);                  /* CTOK_ABI_VERSION of the library */
CTOK_API const char *ctok_status_name(ctok_status status); /* "CTOK_E_HANDLE"; static storage; "?"
                                                              for an unknown one */

/* ---------------------------------------------------------------- engine */
enum {
    CTOK_KERNELS_AUTO = 0,
    CTOK_KERNELS_REFERENCE,
    CTOK_KERNELS_GENERIC,
    CTOK_KERNELS_AVX2,
    CTOK_KERNELS_AVX512,
    CTOK_KERNELS_AVX512_BF16,
    CTOK_KERNELS_NEON,
    CTOK_KERNELS_NEON_BF16
};

enum { CTOK_DEVICE_AUTO = 0, CTOK_DEVICE_CPU, CTOK_DEVICE_CUDA };

typedef struct {
    uint32_t struct_size;
    uint32_t num_threads; /* 0: one for each processor that this process may use, by its affinity
                             and by the quota of its control groups (v1, v2), rounded up; at most
                             256 */
    uint32_t kernels;     /* CTOK_KERNELS_*, of the CPU: auto takes the best that the processor has;
                             reference is scalar and slow */
    uint32_t device; /* CTOK_DEVICE_*: auto takes GPU device_index if this build, the driver and the
                        GPU allow, otherwise the CPU; kernels other than auto mean the CPU */
    uint32_t device_index;     /* of the GPU, as the driver counts them from 0 */
    uint32_t ends_with_thread; /* 1: when the thread that opens it ends, the engine is closed unless
                                  it was, and its jobs are released: for Workers of a JavaScript
                                  runtime, which end in the middle of anything. 0: ctok_engine_close
                                  alone */
    uint32_t keeps_steps; /* 1: its jobs keep when each of their steps ran (ctok_job_steps); a GPU
                             then waits for each. 0: not */
    uint32_t opens_in_background; /* 1: ctok_engine_open does not wait for the device, which takes a
                                     GPU's driver 0.3 to 3 s: ctok_engine_ready tells when it is
                                     open, or why it cannot be. 0: it waits */
} ctok_engine_options;

typedef struct {
    uint32_t struct_size;
    uint32_t num_threads;
    uint64_t arena_bytes; /* activation memory now held for reuse between jobs */
    uint32_t num_models;
    uint32_t num_jobs;     /* queued, running, or ended and not released */
    char kernels[16];      /* "avx512_bf16", "avx512", "avx2", "neon_bf16", "neon", "generic" or
                              "reference"; of a GPU "sm80" or "smxx"      (older: f32 alone) */
    uint64_t state_bytes;  /* memory now held by the state of streams */
    uint64_t device_bytes; /* memory of the device: the machine's, or what the control groups
                              allowed (v1, v2) when the engine opened, or the GPU's */
    char device[16];       /* "cpu", "cuda:0" */
    char device_name[64];  /* as the driver names a GPU; "" for the CPU */
    char why_cpu[256];     /* where device auto took the CPU, unless kernels were asked for: why no
                              GPU, as the error of CTOK_DEVICE_CUDA would say it; otherwise "" */
    /* Of a GPU, since the engine was opened; 0 of the CPU. */
    uint64_t num_starts;           /* kernels launched by themselves */
    uint64_t num_graph_launches;   /* launches of many at once, as a CUDA graph */
    uint64_t num_captures;         /* graphs made */
    uint64_t num_refused_captures; /* graphs that could not be made: those are launched one by one
                                    */
    uint64_t num_waits;            /* how often the host waited for room in what is under way */
} ctok_engine_info;

/* Called on the engine's thread, and there alone, when a job that ends there finds the list of
 * ended jobs empty. It must only wake somebody, who then calls ctok_engine_wait. Inside it, closing
 * an engine and waiting with a timeout are CTOK_E_ARGUMENT: the thread would wait for itself. It
 * carries no data. Jobs that the caller ends itself (ctok_job_cancel, ctok_model_close) are listed
 * without a call: ask ctok_engine_wait after those. */
typedef void (*ctok_wake)(void);

/* Opens an engine, which owns its thread and its pool of threads until ctok_engine_close. options
 * and wake may be NULL. The thread opens the device, and this waits for it unless
 * opens_in_background. CTOK_E_ARGUMENT, CTOK_E_STRUCT_SIZE, CTOK_E_DEVICE, CTOK_E_THREAD,
 * CTOK_E_MEMORY. */
CTOK_API ctok_status ctok_engine_open(const ctok_engine_options *options, ctok_wake wake,
                                      uint32_t *engine, ctok_error *error);

/* CTOK_OK once the engine's device is open; CTOK_E_NOT_READY if it is not within timeout_us (0: at
 * once); or the error that ctok_engine_open gives where it waits. Of such an engine every job ends
 * with that error: close it. Jobs may be submitted before the device is open. */
CTOK_API ctok_status ctok_engine_ready(uint32_t engine, uint32_t timeout_us, ctok_error *error);

/* Instant. Fills in *info as of now; nothing in it belongs to the engine. CTOK_E_STRUCT_SIZE,
 * CTOK_E_HANDLE; and as ctok_engine_ready while the device is not open. */
CTOK_API ctok_status ctok_engine_query(uint32_t engine, ctok_engine_info *info, ctok_error *error);

/* Writes the ids of ended jobs, each once, at most `capacity`; *num_jobs says how many. timeout_us
 * = 0 never waits; otherwise waits so long for the first one. None in time is CTOK_OK with
 * *num_jobs = 0. capacity = 0 only waits. */
CTOK_API ctok_status ctok_engine_wait(uint32_t engine, uint32_t *jobs, uint32_t capacity,
                                      uint32_t *num_jobs, uint32_t timeout_us, ctok_error *error);

/* Cancels what runs, ends every queued job with CTOK_E_CLOSED, wakes every waiter, joins the
 * thread, frees all models. Jobs that ended stay until released. After it returns, `wake` is never
 * called again. */
CTOK_API ctok_status ctok_engine_close(uint32_t engine, ctok_error *error);

/* ---------------------------------------------------------------- devices */
/* A device of this machine, and whether an engine can use it. Texts end with NUL. */
typedef struct {
    char device[16];    /* "cpu", "cuda:0"; "cuda" where there is no GPU, and `reason` tells why */
    char name[64];      /* as the driver names a GPU; otherwise "" */
    char kernels[16];   /* that auto takes there; "" where it cannot be used */
    char reason[256];   /* why it cannot be used: what was expected and found; otherwise "" */
    uint32_t is_usable; /* 1 or 0 */
    uint32_t has_bf16;  /* 1: computes in bfloat16, too */
    uint32_t num_threads;     /* that auto takes, of the CPU; otherwise 0 */
    uint32_t capability;      /* of a GPU: 90 is compute capability 9.0; otherwise 0 */
    uint32_t driver_version;  /* the newest CUDA that the GPU's driver knows: 12080 is 12.8; 0: none
                               */
    uint32_t runtime_version; /* the CUDA that this library was built with; 0: none */
    uint64_t total_bytes;     /* of its memory, as device_bytes of an engine's info; 0: not known */
    uint64_t free_bytes;      /* of that now; 0: not known, as always of the CPU */
} ctok_device_info;

/* Submits a look at all devices: the CPU, then each GPU, of which none is started. It may take the
 * driver as long as opening an engine does, so it is a job of any engine (one of the CPU, say):
 * ctok_job_devices when it has ended. */
CTOK_API ctok_status ctok_device_list(uint32_t engine, uint32_t *job, ctok_error *error);

/* Instant. Copies the first `capacity` devices of such a job that has ended; *num_devices is how
 * many there are: 0 of any other job. devices may be NULL where capacity is 0. CTOK_E_ARGUMENT,
 * CTOK_E_HANDLE, CTOK_E_NOT_READY, or the job's own failure. */
CTOK_API ctok_status ctok_job_devices(uint32_t job, ctok_device_info *devices, uint32_t capacity,
                                      uint32_t *num_devices, ctok_error *error);

/* ---------------------------------------------------------------- model */
/* f32: everything in float32. bf16: bfloat16 weights and activations, summed in float32; pixels,
 * norms' statistics, softmax, the latent and FSQ stay float32. bf16 takes kernels avx512_bf16,
 * neon_bf16 or reference, or a GPU of compute capability 8.0 or more; otherwise CTOK_E_DEVICE. */
enum { CTOK_PRECISION_AUTO = 0, CTOK_PRECISION_F32 = 1, CTOK_PRECISION_BF16 = 2 };
enum { CTOK_HALF_ENCODER = 1, CTOK_HALF_DECODER = 2 };

/* Where a fact about a model came from. */
enum {
    CTOK_FROM_NOWHERE = 0, /* does not apply */
    CTOK_FROM_KEYS,        /* names and shapes of the parameters */
    CTOK_FROM_BUFFERS,     /* buffers that the checkpoint carries beside its parameters
                              (quantizer._levels) */
    CTOK_FROM_METADATA,    /* a safetensors file's __metadata__ */
    CTOK_FROM_NAME,        /* the model's name */
    CTOK_FROM_OPTION,      /* ctok_model_options */
    CTOK_FROM_DEFAULT      /* the value of all public models */
};

typedef struct {
    uint32_t struct_size;
    uint32_t precision; /* CTOK_PRECISION_*; auto is bf16 with kernels avx512_bf16, neon_bf16 and
                           sm80, otherwise f32 */
    uint32_t halves;    /* bits of CTOK_HALF_*; 0: every half that the checkpoint holds */
    uint32_t num_fsq_levels;  /* 0: as found */
    uint32_t fsq_levels[8];   /* 2 .. 65535 each, product at most 2^31 - 1 */
    uint32_t spatial_factor;  /* pixels and frames to one token; 0: as found. Needed for a video
                                 checkpoint that carries */
    uint32_t temporal_factor; /* unused convolutions under a name that does not tell; otherwise
                                 checked */
    uint32_t num_threads; /* of the engine's that this model's jobs use at most; 0: all. Results do
                             not depend on it */
    char name[64];        /* "" takes the last part of the path; a name such as ...-DI8x8 is checked
                             against the keys */
    uint32_t reserved;
    uint64_t max_memory_bytes; /* that weights and one request take together
                                  (ctok_plan.total_bytes); more is CTOK_E_MEMORY before anything is
                                  allocated. 0: what the device has */
} ctok_model_options;

/* How a model makes codes of its latent vectors. */
enum {
    CTOK_QUANTIZER_NONE = 0, /* not: a continuous latent */
    CTOK_QUANTIZER_FSQ,      /* finite scalar quantisation: a digit for each channel, in base
                                levels[channel] */
    CTOK_QUANTIZER_LOOKUP,   /* the nearest of a learned codebook of unit vectors */
    CTOK_QUANTIZER_SIGN      /* the sign of each channel, a bit each */
};

/* One thing that is known of a model, for people. Texts end with NUL. */
typedef struct {
    char name[32];  /* "Haar patch" */
    char value[92]; /* "4" */
    uint32_t from;  /* CTOK_FROM_* */
} ctok_fact;

typedef struct {
    uint32_t struct_size;
    uint32_t halves; /* bits of CTOK_HALF_* */
    uint32_t is_video;
    uint32_t spatial_factor;  /* pixels to one token, each way */
    uint32_t temporal_factor; /* frames to one token after the first frame; 1 for images */
    uint32_t latent_channels; /* of the latent or of the codes */
    uint32_t quantizer;       /* CTOK_QUANTIZER_* */
    uint32_t codebook_size;   /* number of codes; 0 when continuous */
    uint32_t num_levels;      /* of FSQ; otherwise 0 */
    uint32_t levels[8];       /* level 0 is the least significant digit of an index */
    uint32_t precision;       /* CTOK_PRECISION_* in use */
    ctok_dtype stored_dtype;  /* of the weights in the file */
    uint32_t num_nonfinite_tensors;
    uint32_t num_threads; /* that its jobs use */
    uint32_t num_facts;
    int64_t encoder_parameters, decoder_parameters;
    int64_t codebook_parameters; /* of a learned codebook, which serves both halves */
    int64_t num_nonfinite;       /* weights that are NaN or infinite: allowed, and told here */
    uint64_t weight_bytes; /* memory that the packed weights take; models of one engine share those
                              of the same files */
    char first_nonfinite[160]; /* name of the first tensor that has some, or "" */
    char name[64];
    char family[16];     /* of networks: "cosmos" */
    char sha256[72];     /* of all parameters of the checkpoint, both halves, in lower-case hex,
                            whatever form holds them: docs/token_formats.md */
    ctok_fact facts[16]; /* what is known of the network besides, in words: its factors, levels,
                            widths, and what told them */
} ctok_model_info;

/* Submits the opening of `path`: a TorchScript archive, a state dict of torch.save, a .safetensors
 * file, or a folder with encoder.jit and/or decoder.jit, autoencoder.jit, .safetensors of the same
 * names, or one file of these forms. Loading is strict: a missing, extra or misshapen tensor is an
 * error; what wraps all names of a file alike ("module.") is taken off. When the job has ended
 * well, ctok_job_info.model is the id; the caller owns it: ctok_model_close. options may be NULL.
 */
CTOK_API ctok_status ctok_model_open(uint32_t engine, const char *path,
                                     const ctok_model_options *options, uint32_t *job,
                                     ctok_error *error);

/* Instant. Fills in *info, which stays the same while the model is open; nothing in it belongs to
 * the model. CTOK_E_STRUCT_SIZE, CTOK_E_HANDLE. */
CTOK_API ctok_status ctok_model_query(uint32_t model, ctok_model_info *info, ctok_error *error);

/* Queued jobs of the model end with CTOK_E_CLOSED, a running one is cancelled; memory goes back
 * when the last has ended. */
CTOK_API ctok_status ctok_model_close(uint32_t model, ctok_error *error);

/* Submits writing the checkpoint at `path` as one safetensors file with the public parameter names,
 * dtypes kept, buffers dropped, and what keys cannot tell in its metadata. The file appears whole
 * or not at all, replacing a regular file of that name, through symbolic links the file that they
 * lead to; CTOK_E_FILE_IO for a device, pipe or folder. Cancelled, the job ends with
 * CTOK_E_CANCELLED and writes nothing, or has written the file and ends well. options may be NULL.
 */
CTOK_API ctok_status ctok_model_convert(uint32_t engine, const char *out_path, const char *path,
                                        const ctok_model_options *options, uint32_t *job,
                                        ctok_error *error);

/* ---------------------------------------------------------------- requests
 * Layouts, always contiguous, B = batch; (T,) and (t,) are there for video models:
 *     pixels u8   [B, (T,) H, W, 3]       0 .. 255; 0 maps to -1.0, 255 to 1.0
 *     pixels f32  [B, 3, (T,) H, W]       -1 .. 1 (decoding does not clamp)
 *     indices i32 [B, (t,) h, w]          0 .. codebook_size - 1
 *     codes f32   [B, d, (t,) h, w]       quantised values, -1 .. 1; a discrete model's decode (of
 *                                         no stream) gives them too, and asked for codes alone it
 *                                         runs no network: the way to a learned codebook
 *     latent f32  [B, C, (t,) h, w]       continuous models
 *     pre_quant   [B, d, (t,) h, w] f32   the vector before FSQ
 * Pixels of any H, W >= 1 are padded with black to multiples of 16 (and of spatial_factor), half on
 * each side, the odd one last. h = padded_height / spatial_factor. A clip of any T >= 1 is padded
 * to 8k + 1 frames by repeating its first and last frame, half at each end, the odd one last; t =
 * (padded_frames - 1) / temporal_factor + 1. Encode and autoencode do that themselves; ctok_plan
 * tells the padding. The chunks of a stream are not padded in time: see ctok_stream_open.
 */
enum {
    CTOK_CHUNK_NONE = 0,
    CTOK_CHUNK_FIRST = 1,
    CTOK_CHUNK_LATER = 2
}; /* a whole clip; the first of a stream; one after it */
enum { CTOK_TASK_ENCODE = 1, CTOK_TASK_DECODE = 2, CTOK_TASK_AUTOENCODE = 3 };
enum {
    CTOK_PIXELS_U8 = 1,
    CTOK_PIXELS_F32 = 2,
    CTOK_INDICES = 4,
    CTOK_CODES = 8,
    CTOK_LATENT = 16,
    CTOK_PRE_QUANT = 32
};

typedef struct {
    uint32_t struct_size;
    uint32_t task;     /* CTOK_TASK_* */
    uint32_t input;    /* one of the tensors above */
    uint32_t outputs;  /* bits of the tensors above. 0: encode gives indices and codes, or latent;
                          others pixels of decode: f32,  of autoencode: u8 */
    uint32_t chunk;    /* CTOK_CHUNK_*: for ctok_plan_query; ctok_stream_submit knows it */
    uint32_t num_held; /* inputs and results as large as this one's that the caller holds at once,
                          as a stream's consumer does: they count so often in total_bytes. 0 means 1
                        */
    int64_t batch;     /* 0 means 1. Its images are computed together, as many as are worth while
                          and as the limits of memory leave room for, else in several passes; each
                          result has the bits that it has alone */
    int64_t frames, height, width; /* of the input: pixels, or tokens when decoding; frames 0 means
                                      1 */
    int64_t crop_before, crop_top, crop_left; /* decode: the part of the pixels to return; frames
                                                 and height 0: all */
    int64_t crop_frames, crop_height, crop_width;
    int64_t state_frames; /* of a chunk, for ctok_plan_query: frames of tokens that the stream's
                             attention holds at most; ctok_stream_submit knows it */
    uint64_t max_memory_bytes; /* as the model's, for this request: the smaller one counts. 0: the
                                  model's */
} ctok_request;

typedef struct {
    uint32_t kind; /* CTOK_PIXELS_U8 ... */
    ctok_dtype dtype;
    uint32_t rank;
    uint32_t reserved;
    int64_t shape[5];
    uint64_t bytes;
} ctok_output;

typedef struct {
    uint32_t struct_size;
    uint32_t num_outputs;
    uint64_t input_bytes;  /* that ctok_job_submit will expect */
    uint64_t result_bytes; /* of all outputs */
    uint64_t arena_bytes;  /* activations and scratch of one pass, at the peak */
    uint64_t weight_bytes; /* packed weights, held since opening */
    uint32_t num_steps;
    uint32_t reserved;
    uint64_t state_bytes;           /* of a stream: all that it holds between chunks, with room for
                                       state_frames */
    uint64_t state_bytes_per_frame; /* of a stream: the temporal attention's past, for each frame of
                                       tokens that it keeps */
    uint64_t total_bytes; /* weights, activations, state, and inputs and results num_held times:
                             what limits look at */
    int64_t padded_frames, padded_height, padded_width; /* encode and autoencode; otherwise of the
                                                           decoded pixels */
    int64_t pad_before, pad_top, pad_left;
    ctok_output outputs[4];
} ctok_plan;

/* Instant. Refuses what ctok_job_submit would refuse, with the same error. */
CTOK_API ctok_status ctok_plan_query(uint32_t model, ctok_plan *plan, const ctok_request *request,
                                     ctok_error *error);

/* ---------------------------------------------------------------- jobs */

/* Submits a request: `input` holds input_bytes, as ctok_plan.input_bytes says, and is copied before
 * the function returns. The caller owns the id in *job: ctok_job_wait or ctok_engine_wait,
 * ctok_job_take for each output, ctok_job_release. Refused at once, without a job: CTOK_E_ARGUMENT,
 * CTOK_E_STRUCT_SIZE, CTOK_E_HANDLE, CTOK_E_SHAPE, CTOK_E_UNSUPPORTED (a half that is not open, a
 * tensor that the model does not have), CTOK_E_MEMORY (also a limit), CTOK_E_CLOSED (the engine).
 * The job itself may end with CTOK_E_VALUE, CTOK_E_MEMORY, CTOK_E_DEVICE, CTOK_E_CANCELLED,
 * CTOK_E_CLOSED. */
CTOK_API ctok_status ctok_job_submit(uint32_t model, const void *input, uint64_t input_bytes,
                                     const ctok_request *request, uint32_t *job, ctok_error *error);

/* ---------------------------------------------------------------- streams
 * A stream turns a video of any length into one seamless token sequence, or back, in chunks: the
 * result is that of the whole clip at once, however it is cut. Encoding: the first chunk has 1 + k
 * * temporal_factor frames (k >= 0), every later one a multiple of temporal_factor (at a clip's
 * end, repeat the last frame). Decoding: any number of token frames. Sizes stay those of the first
 * chunk. Between chunks it holds two frames of activations for each temporal convolution, and the
 * keys and values of the temporal attention for all frames so far, or the last `attention_frames`.
 */
typedef struct {
    uint32_t struct_size;
    uint32_t task;             /* CTOK_TASK_ENCODE or CTOK_TASK_DECODE */
    uint32_t attention_frames; /* token frames that a frame sees, itself included; 0: all of the
                                  past */
    uint32_t reserved;
} ctok_stream_options;

/* Instant: the memory of the state is taken by the chunks. The caller owns the id in *stream:
 * ctok_stream_close. options must be there, as it has the task. CTOK_E_ARGUMENT,
 * CTOK_E_STRUCT_SIZE, CTOK_E_HANDLE, CTOK_E_UNSUPPORTED (a model of images), CTOK_E_MEMORY. */
CTOK_API ctok_status ctok_stream_open(uint32_t model, const ctok_stream_options *options,
                                      uint32_t *stream, ctok_error *error);

/* Submits the next chunk: a job as any other. The chunks of a stream run in the order submitted. A
 * chunk that fails or is cancelled ends the stream: later ones give CTOK_E_CLOSED. */
CTOK_API ctok_status ctok_stream_submit(uint32_t stream, const void *input, uint64_t input_bytes,
                                        const ctok_request *request, uint32_t *job,
                                        ctok_error *error);

/* Queued chunks still run; memory goes back when the last has ended. */
CTOK_API ctok_status ctok_stream_close(uint32_t stream, ctok_error *error);

enum { CTOK_JOB_QUEUED = 1, CTOK_JOB_RUNNING = 2, CTOK_JOB_ENDED = 3 };

typedef struct {
    uint32_t struct_size;
    uint32_t state;     /* CTOK_JOB_* */
    ctok_status status; /* once ended */
    uint32_t model;     /* ctok_model_open, ended well: the new id */
    uint32_t steps_done, num_steps;
    uint32_t num_outputs; /* once ended well */
    uint32_t reserved;
    uint64_t run_us; /* time on the engine's thread, microseconds, once ended */
    int64_t pad_before, pad_top, pad_left; /* of a request, once ended well: as in ctok_plan */
    ctok_output outputs[4];
} ctok_job_info;

/* Instant, at any time of the job's life. Fills in *info; the results themselves are had by
 * ctok_job_take. A job that failed is no failure of this function: info->status is the job's.
 * CTOK_E_STRUCT_SIZE, CTOK_E_HANDLE. */
CTOK_API ctok_status ctok_job_query(uint32_t job, ctok_job_info *info, ctok_error *error);

/* The job's own status and, when it failed, its error; CTOK_E_NOT_READY if it has not ended within
 * timeout_us (0: at once). */
CTOK_API ctok_status ctok_job_wait(uint32_t job, uint32_t timeout_us, ctok_error *error);

/* Copies output number `index` (as in ctok_job_info.outputs) out. CTOK_E_CAPACITY when out_bytes is
 * too small. */
CTOK_API ctok_status ctok_job_take(uint32_t job, void *out, uint64_t out_bytes, uint32_t index,
                                   ctok_error *error);

/* One step of a job as it ran, on the engine's thread. The steps of a job follow each other, each
 * timed from the end of the one before. Convolutions that a GPU starts together have equal parts of
 * their time. */
typedef struct {
    char kind[16];     /* "conv", "norm", "attention", "load", ... */
    char layer[96];    /* "encoder.down.1.block.0.conv1"; "" where it has none */
    int64_t shape[5];  /* of what it makes, [batch, frames, height, width, channels]; of a copy, its
                          bytes come last */
    uint64_t start_ns; /* since the engine was opened */
    uint64_t duration_ns;
    uint64_t flops; /* multiplications and additions in the direct form, of convolutions and
                       attention; otherwise 0 */
} ctok_step;

/* Instant. Copies the first `capacity` steps of a job that has ended well, all passes of its batch
 * in turn; *num_steps is how many there are: 0 unless the engine keeps steps. steps may be NULL
 * where capacity is 0. CTOK_E_ARGUMENT, CTOK_E_HANDLE, CTOK_E_NOT_READY, or the job's own failure.
 */
CTOK_API ctok_status ctok_job_steps(uint32_t job, ctok_step *steps, uint32_t capacity,
                                    uint32_t *num_steps, ctok_error *error);

/* Asks the job to end with CTOK_E_CANCELLED; it stays until released. Fine on a job that has ended.
 */
CTOK_API ctok_status ctok_job_cancel(uint32_t job, ctok_error *error);

/* Forgets the id and frees the results. A job that has not ended is cancelled first and freed when
 * it ends; a model that it opened all the same is closed. */
CTOK_API ctok_status ctok_job_release(uint32_t job, ctok_error *error);

#ifdef __cplusplus
}
#endif
#endif
