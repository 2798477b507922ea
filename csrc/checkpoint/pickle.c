// Note: over 400 lines: one machine, with a case for each opcode.
// A stack machine over pickle protocol 2, closed to what torch's C++ Pickler and torch.save write.
// Nothing here recurses: values link to values, and every opcode makes at most one value and one
// link for each it pops.
// What it leaves out: complex numbers, quantized and sparse tensors, every other opcode and name,
// and the protocols 3 to 5, which torch.save writes only where it is asked to. Called by torch.c.
// Ref: torch/csrc/jit/serialization/pickler.cpp (opcodes, names and the shapes of their arguments);
// torch/_utils.py (_rebuild_*); Lib/pickletools.py (operands of each opcode).
#include "pickle.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "pickle_names.h"

typedef struct {
    const uint8_t *bytes;
    size_t num_bytes, at, opcode_at;
    pickle_value **stack;  // NULL is a mark. Room for num_bytes: an opcode pushes at most one
    size_t depth;
    pickle_value **memo;
    size_t memo_capacity;         // num_bytes: a writer numbers its entries from 0
    const pickle_value *unknown;  // the first name that is none of ours
    struct checkpoint_strings **arena;
    ctok_error *error;
} machine;

__attribute__((format(printf, 2, 3))) static ctok_status fail(const machine *m, const char *format,
                                                              ...) {
    char message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return ctok_fail(m->error, CTOK_E_FILE_FORMAT, (int64_t)m->opcode_at, "data.pkl, byte %zu: %s",
                     m->opcode_at, message);
}

const char *pickle_kind_name(pickle_kind kind) {
    static const char *const names[] = {"None",
                                        "a bool",
                                        "an int",
                                        "a float",
                                        "a string",
                                        "a tuple",
                                        "a list",
                                        "a dict",
                                        "a name",
                                        "an object",
                                        "a storage",
                                        "a tensor",
                                        "a value of unknown kind"};
    return names[kind];
}

// Names the kind of the value on top of the stack, for messages.
static const char *found(const pickle_value *value) {
    return value ? pickle_kind_name(value->kind) : "nothing";
}

static bool is_text(text t, const char *s) {
    return t.num_bytes == strlen(s) && memcmp(t.bytes, s, t.num_bytes) == 0;
}

/* ---------------------------------------------------------------- the stack */
static pickle_value *make(machine *m, pickle_kind kind) {
    pickle_value *value = arena_take(m->arena, sizeof *value);
    if (value) value->kind = kind;
    return value;
}

static ctok_status no_memory(machine *m) {
    return ctok_fail(m->error, CTOK_E_MEMORY, (int64_t)m->num_bytes,
                     "no memory for the values of data.pkl");
}

static ctok_status push(machine *m, pickle_value *value) {
    if (!value) return no_memory(m);
    m->stack[m->depth++] = value;
    return CTOK_OK;
}

static pickle_value *top(const machine *m) { return m->depth > 0 ? m->stack[m->depth - 1] : NULL; }

// NULL, and nothing popped, where the stack is empty or a mark is on top.
static pickle_value *pop(machine *m) {
    pickle_value *value = top(m);
    if (value) m->depth--;
    return value;
}

static ctok_status push_integer(machine *m, pickle_kind kind, int64_t integer) {
    pickle_value *value = make(m, kind);
    if (value) value->integer = integer;
    return push(m, value);
}

static ctok_status append(machine *m, pickle_value *into, const pickle_value *key,
                          const pickle_value *value) {
    pickle_item *item = arena_take(m->arena, sizeof *item);
    if (!item) return no_memory(m);
    *item = (pickle_item){key, value, NULL};
    if (into->last) into->last->next = item;
    else into->first = item;
    into->last = item;
    into->num_items++;
    return CTOK_OK;
}

// Moves the topmost `count` values into a tuple, a list or (in pairs) a dict.
static ctok_status collect(machine *m, pickle_value *into, size_t count) {
    size_t step = into->kind == PICKLE_DICT ? 2 : 1;
    if (count % step != 0)
        return fail(m, "a dict entry has a key without a value (%zu values)", count);
    pickle_value **items = m->stack + m->depth - count;
    for (size_t i = 0; i < count; i++)
        if (!items[i]) return fail(m, "expected %zu values on the stack, found a mark", count);
    for (size_t i = 0; i < count; i += step)
        CTOK_TRY(step == 2 ? append(m, into, items[i], items[i + 1])
                           : append(m, into, NULL, items[i]));
    m->depth -= count;
    return CTOK_OK;
}

static ctok_status count_to_mark(machine *m, size_t *count) {
    for (*count = 0; *count < m->depth; ++*count)
        if (!m->stack[m->depth - 1 - *count]) return CTOK_OK;
    return fail(m, "opcode 0x%02x needs a mark below it", m->bytes[m->opcode_at]);
}

// count values above a mark, or, without a mark, exactly `count`.
static ctok_status run_tuple(machine *m, size_t count, bool has_mark) {
    if (has_mark) CTOK_TRY(count_to_mark(m, &count));
    if (count > m->depth)
        return fail(m, "a tuple of %zu values, but %zu on the stack", count, m->depth);
    pickle_value *tuple = make(m, PICKLE_TUPLE);
    if (!tuple) return no_memory(m);
    CTOK_TRY(collect(m, tuple, count));
    if (has_mark) m->depth--;
    return push(m, tuple);
}

static ctok_status run_fill(machine *m, pickle_kind kind, size_t count, bool has_mark) {
    if (has_mark) CTOK_TRY(count_to_mark(m, &count));
    size_t needed = count + has_mark + 1;
    pickle_value *into = needed <= m->depth ? m->stack[m->depth - needed] : NULL;
    if (into && into->kind == PICKLE_OPAQUE) {  // what it is given goes with it
        m->depth -= count + has_mark;
        return CTOK_OK;
    }
    if (!into || into->kind != kind)
        return fail(m, "expected %s to fill, found %s", pickle_kind_name(kind), found(into));
    CTOK_TRY(collect(m, into, count));
    if (has_mark) m->depth--;
    return CTOK_OK;
}

/* ---------------------------------------------------------------- operands */
static ctok_status take(machine *m, const uint8_t **operand, size_t num_bytes) {
    *operand = m->bytes + m->at;
    if (num_bytes > m->num_bytes - m->at)
        return fail(m, "opcode 0x%02x needs %zu more bytes, %zu are left", m->bytes[m->opcode_at],
                    num_bytes, m->num_bytes - m->at);
    m->at += num_bytes;
    return CTOK_OK;
}

static ctok_status take_line(machine *m, text *line) {
    const uint8_t *start = m->bytes + m->at, *end = memchr(start, '\n', m->num_bytes - m->at);
    if (!end) return fail(m, "a name without its line end");
    *line = (text){(const char *)start, (size_t)(end - start)};
    m->at += line->num_bytes + 1;
    return CTOK_OK;
}

static ctok_status run_integer(machine *m, size_t num_bytes, bool is_signed) {
    const uint8_t *operand;
    CTOK_TRY(take(m, &operand, num_bytes));
    uint64_t bits = 0;
    for (size_t i = 0; i < num_bytes; i++) bits |= (uint64_t)operand[i] << (8 * i);
    if (is_signed && num_bytes > 0 && num_bytes < 8 && operand[num_bytes - 1] >= 0x80)
        bits |= UINT64_MAX << (8 * num_bytes);
    return push_integer(m, PICKLE_INT, (int64_t)bits);
}

static ctok_status run_long(machine *m) {
    const uint8_t *length;
    CTOK_TRY(take(m, &length, 1));
    if (*length > 8) return fail(m, "an int of %d bytes: expected at most 8", *length);
    return run_integer(m, *length, true);
}

static ctok_status run_float(machine *m) {
    const uint8_t *operand;
    CTOK_TRY(take(m, &operand, 8));
    uint64_t bits = __builtin_bswap64(load_u64(operand));
    pickle_value *value = make(m, PICKLE_FLOAT);
    if (value) memcpy(&value->number, &bits, sizeof bits);
    return push(m, value);
}

static ctok_status run_string(machine *m) {
    const uint8_t *operand;
    CTOK_TRY(take(m, &operand, 4));
    size_t num_bytes = load_u32(operand);
    CTOK_TRY(take(m, &operand, num_bytes));
    pickle_value *value = make(m, PICKLE_STRING);
    if (value) value->text = (text){(const char *)operand, num_bytes};
    return push(m, value);
}

static ctok_status run_memo(machine *m, size_t index_bytes, bool is_put) {
    const uint8_t *operand;
    CTOK_TRY(take(m, &operand, index_bytes));
    size_t index = index_bytes == 1 ? *operand : load_u32(operand);
    if (index >= m->memo_capacity)
        return fail(m, "memo entry %zu in a pickle of %zu bytes", index, m->num_bytes);
    if (!is_put)
        return m->memo[index] ? push(m, m->memo[index])
                              : fail(m, "memo entry %zu is read before it is set", index);
    if (!top(m)) return fail(m, "memo entry %zu is set from nothing", index);
    m->memo[index] = top(m);
    return CTOK_OK;
}

/* ---------------------------------------------------------------- constructions */
static ctok_status run_global(machine *m) {
    text module, name;
    CTOK_TRY(take_line(m, &module));
    CTOK_TRY(take_line(m, &name));
    pickle_value *value = make(m, PICKLE_GLOBAL);
    if (!value) return no_memory(m);
    value->text = name;
    static const char prefix[] = "__torch__.";
    if (is_text(module, "__torch__") || (module.num_bytes >= sizeof prefix &&
                                         memcmp(module.bytes, prefix, sizeof prefix - 1) == 0)) {
        value->role = ROLE_CLASS;
        return push(m, value);
    }
    for (size_t i = 0; i < sizeof pickle_names / sizeof *pickle_names; i++) {
        if (!is_text(module, pickle_names[i].module) || !is_text(name, pickle_names[i].name))
            continue;
        value->role = pickle_names[i].role;
        value->dtype = pickle_names[i].dtype;
        return push(m, value);
    }
    value->kind = PICKLE_OPAQUE;
    value->module = module;
    value->integer = (int64_t)m->opcode_at;
    if (!m->unknown) m->unknown = value;
    return push(m, value);
}

// What an unknown name makes, and what a known one makes of it, is that opaque value itself. NULL
// where there is none in the callee and the arguments; no known name takes more of them than are
// looked at.
static pickle_value *opaque_of(pickle_value *callee, const pickle_value *arguments) {
    enum { MOST_ARGUMENTS = 7 };
    if (callee && callee->kind == PICKLE_OPAQUE) return callee;
    if (!arguments || arguments->kind != PICKLE_TUPLE || arguments->num_items > MOST_ARGUMENTS)
        return NULL;
    for (const pickle_item *item = arguments->first; item; item = item->next)
        if (item->value->kind == PICKLE_OPAQUE) return (pickle_value *)item->value;
    return NULL;
}

static ctok_status run_new_object(machine *m) {
    pickle_value *arguments = pop(m), *class = pop(m);
    if (class && class->kind == PICKLE_OPAQUE) return push(m, class);
    if (!class || class->kind != PICKLE_GLOBAL || class->role != ROLE_CLASS)
        return fail(m, "expected a __torch__ class to make an object of, found %s", found(class));
    if (arguments->kind != PICKLE_TUPLE || arguments->num_items != 0)
        return fail(m, "expected no arguments for an object, found %s", found(arguments));
    pickle_value *object = make(m, PICKLE_OBJECT);
    if (object) object->text = class->text;
    return push(m, object);
}

// The state of an OrderedDict is ignored: torch gives a state dict an attribute _metadata, the
// versions of its modules.
static ctok_status run_build(machine *m) {
    pickle_value *state = pop(m), *object = top(m);
    if (state && object && object->kind == PICKLE_OPAQUE) return CTOK_OK;
    bool is_ordered = object && object->kind == PICKLE_DICT && object->role == ROLE_DICT;
    if (is_ordered && state && state->kind == PICKLE_DICT) return CTOK_OK;
    if (!state || !object || object->kind != PICKLE_OBJECT || object->state)
        return fail(m, "expected a new object to give its state to, found %s", found(object));
    object->state = state;
    return CTOK_OK;
}

static bool holds_kinds(const pickle_value *tuple, const pickle_kind *kinds, int64_t num_kinds) {
    if (!tuple || tuple->kind != PICKLE_TUPLE || tuple->num_items < num_kinds) return false;
    const pickle_item *item = tuple->first;
    for (int64_t i = 0; i < num_kinds; i++, item = item->next)
        if (item->value->kind != kinds[i]) return false;
    return true;
}

// Arguments: storage, offset, size, stride, requires_grad, hooks (an empty dict), and perhaps a
// dict of math flags.
static ctok_status rebuild_tensor(machine *m, const pickle_value *arguments) {
    static const pickle_kind kinds[] = {PICKLE_STORAGE, PICKLE_INT,  PICKLE_TUPLE, PICKLE_TUPLE,
                                        PICKLE_BOOL,    PICKLE_DICT, PICKLE_DICT};
    if (arguments->num_items > 7 ||
        !holds_kinds(arguments, kinds, arguments->num_items == 7 ? 7 : 6))
        return fail(
            m, "_rebuild_tensor_v2 expects (storage, offset, size, stride, requires_grad, hooks)");
    const pickle_item *item = arguments->first;
    const pickle_value *values[7] = {0};
    for (int i = 0; item; item = item->next) values[i++] = item->value;
    for (int i = 5; i < 7; i++)
        if (values[i] && values[i]->num_items != 0)
            return fail(m, "a tensor with %s is not supported", i == 5 ? "hooks" : "math flags");
    pickle_value *tensor = make(m, PICKLE_TENSOR);
    if (!tensor) return no_memory(m);
    tensor->storage = values[0];
    tensor->integer = values[1]->integer;
    tensor->size = values[2];
    tensor->stride = values[3];
    return push(m, tensor);
}

// Handles _rebuild_parameter. Its arguments are a tensor, requires_grad and hooks (an empty dict);
// the result is the tensor.
static ctok_status rebuild_parameter(machine *m, const pickle_value *arguments) {
    static const pickle_kind kinds[] = {PICKLE_TENSOR, PICKLE_BOOL, PICKLE_DICT};
    bool has_kinds = arguments->num_items == 3 && holds_kinds(arguments, kinds, 3);
    if (!has_kinds || arguments->last->value->num_items != 0)
        return fail(m, "_rebuild_parameter expects (tensor, requires_grad, no hooks)");
    return push(m, (pickle_value *)arguments->first->value);
}

static ctok_status make_ordered_dict(machine *m) {
    pickle_value *dict = make(m, PICKLE_DICT);
    if (dict) dict->role = ROLE_DICT;
    return push(m, dict);
}

static ctok_status run_reduce(machine *m) {
    pickle_value *arguments = pop(m), *callee = pop(m), *opaque = opaque_of(callee, arguments);
    if (opaque) return push(m, opaque);
    if (!callee || callee->kind != PICKLE_GLOBAL || arguments->kind != PICKLE_TUPLE)
        return fail(m, "expected a name and a tuple of arguments, found %s and %s", found(callee),
                    found(arguments));
    if (callee->role == ROLE_TENSOR) return rebuild_tensor(m, arguments);
    if (callee->role == ROLE_PARAMETER) return rebuild_parameter(m, arguments);
    if (callee->role == ROLE_DICT && arguments->num_items == 0) return make_ordered_dict(m);
    if (callee->role == ROLE_FIRST_ARGUMENT && arguments->num_items >= 1 &&
        arguments->num_items <= 2)
        return push(m, (pickle_value *)arguments->first->value);
    return fail(m, "%s cannot be called with %lld arguments", text_shown(callee->text).s,
                (long long)arguments->num_items);
}

// A storage: ("storage", its type, key, location, number of elements). Where it lived (cpu, cuda:0)
// does not matter here.
static ctok_status run_persistent_id(machine *m) {
    static const pickle_kind kinds[] = {PICKLE_STRING, PICKLE_GLOBAL, PICKLE_STRING, PICKLE_STRING,
                                        PICKLE_INT};
    const pickle_value *id = pop(m);
    pickle_value *opaque = opaque_of(NULL, id);  // a storage of a type that is none of ours
    if (opaque) return push(m, opaque);
    if (!holds_kinds(id, kinds, 5) || id->num_items != 5 ||
        !text_equal(id->first->value->text, TEXT("storage")) ||
        id->first->next->value->role != ROLE_STORAGE)
        return fail(m, "expected (\"storage\", type, key, location, elements), found %s",
                    found(id));
    const pickle_item *type = id->first->next, *key = type->next, *count = key->next->next;
    pickle_value *storage = make(m, PICKLE_STORAGE);
    if (!storage) return no_memory(m);
    storage->dtype = type->value->dtype;
    storage->text = key->value->text;
    storage->integer = count->value->integer;
    return push(m, storage);
}

/* ---------------------------------------------------------------- the loop */
static ctok_status step(machine *m) {
    m->opcode_at = m->at;
    const uint8_t *operand;
    if (m->at == m->num_bytes) return fail(m, "the record ends without STOP");
    uint8_t opcode = m->bytes[m->at++];
    switch (opcode) {
        case 0x80: /* PROTO */
            CTOK_TRY(take(m, &operand, 1));
            if (*operand == 2) return CTOK_OK;
            return fail(m, "pickle protocol %d: expected 2, torch.save's default", *operand);
        case '(': m->stack[m->depth++] = NULL; return CTOK_OK; /* MARK */
        case '}': return push(m, make(m, PICKLE_DICT));        /* EMPTY_DICT */
        case ']': return push(m, make(m, PICKLE_LIST));        /* EMPTY_LIST */
        case ')': return push(m, make(m, PICKLE_TUPLE));       /* EMPTY_TUPLE */
        case 'J': return run_integer(m, 4, true);              /* BININT */
        case 'K': return run_integer(m, 1, false);             /* BININT1 */
        case 'M': return run_integer(m, 2, false);             /* BININT2 */
        case 0x8A: return run_long(m);                         /* LONG1 */
        case 'G': return run_float(m);                         /* BINFLOAT */
        case 'X': return run_string(m);                        /* BINUNICODE */
        case 'N': return push(m, make(m, PICKLE_NONE));        /* NONE */
        case 0x88: return push_integer(m, PICKLE_BOOL, 1);     /* NEWTRUE */
        case 0x89: return push_integer(m, PICKLE_BOOL, 0);     /* NEWFALSE */
        case 't': return run_tuple(m, 0, true);                /* TUPLE */
        case 0x85: return run_tuple(m, 1, false);              /* TUPLE1 */
        case 0x86: return run_tuple(m, 2, false);              /* TUPLE2 */
        case 0x87: return run_tuple(m, 3, false);              /* TUPLE3 */
        case 'a': return run_fill(m, PICKLE_LIST, 1, false);   /* APPEND */
        case 'e': return run_fill(m, PICKLE_LIST, 0, true);    /* APPENDS */
        case 's': return run_fill(m, PICKLE_DICT, 2, false);   /* SETITEM */
        case 'u': return run_fill(m, PICKLE_DICT, 0, true);    /* SETITEMS */
        case 'q': return run_memo(m, 1, true);                 /* BINPUT */
        case 'r': return run_memo(m, 4, true);                 /* LONG_BINPUT */
        case 'h': return run_memo(m, 1, false);                /* BINGET */
        case 'j': return run_memo(m, 4, false);                /* LONG_BINGET */
        case 'c': return run_global(m);                        /* GLOBAL */
        case 0x81: return run_new_object(m);                   /* NEWOBJ */
        case 'R': return run_reduce(m);                        /* REDUCE */
        case 'b': return run_build(m);                         /* BUILD */
        case 'Q': return run_persistent_id(m);                 /* BINPERSID */
        default: return fail(m, "opcode 0x%02x is not one that PyTorch writes by default", opcode);
    }
}

ctok_status pickle_read(pickle_document *out, struct checkpoint_strings **arena,
                        const uint8_t *bytes, size_t num_bytes, ctok_error *error) {
    machine m = {.bytes = bytes,
                 .num_bytes = num_bytes,
                 .memo_capacity = num_bytes,
                 .arena = arena,
                 .error = error};
    if (num_bytes < 2 || bytes[0] != 0x80)
        return fail(&m, "expected a pickle of protocol 2, found %zu other bytes", num_bytes);
    if (num_bytes > PICKLE_MAX_BYTES)
        return fail(&m, "%zu bytes: expected at most %d", num_bytes, PICKLE_MAX_BYTES);
    m.stack = calloc(num_bytes, 2 * sizeof *m.stack);
    if (!m.stack) return no_memory(&m);
    m.memo = m.stack + num_bytes;

    ctok_status status = CTOK_OK;
    while (status == CTOK_OK && !(m.at < num_bytes && bytes[m.at] == '.')) status = step(&m);
    m.opcode_at = m.at;
    if (status == CTOK_OK && (m.depth != 1 || !top(&m)))
        status = fail(&m, "STOP with %zu values on the stack, expected 1", m.depth);
    if (status == CTOK_OK && m.at + 1 != num_bytes)
        status = fail(&m, "%zu bytes follow STOP", num_bytes - m.at - 1);
    if (status == CTOK_OK) *out = (pickle_document){m.stack[0], m.unknown};
    free(m.stack);
    return status;
}
