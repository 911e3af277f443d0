/* The native twin of the look-up: `shmroute.worker.lookup` says what it does and has the same in plain Python.
 *
 * A warm look-up loads the generation word, compares it, and asks the recent keys, then the cache (a dict). A first
 * touch finds the row's record in the mapped segment (docs/format.md), copies it, checks it, and makes the value.
 * Whatever is not plain is left to the method `_look_up` of the Python subclass: the first look-up, a new generation,
 * options, an absent or damaged row, a row of more than MAX_RECORD bytes, a full cache.
 *
 * What keeps this safe:
 *  - The global interpreter lock is held from the look at the position to the end of the copy, so `_disable` and
 *    `_enable` of another thread come before or after it. Only the call that makes the value can let others run; `moves`
 *    tells afterwards whether the reader has moved, and the value is then returned but not kept.
 *  - `_disable` replaces the pointer to the generation word first and releases the mappings last, because releasing them
 *    may let another thread run.
 *  - No byte of a segment is believed: each offset is compared with the capacity before it is followed, and the copy is
 *    used only if its checksum and key are right and *oldest* still allows the segment after an acquire fence.
 *  - On a free-threaded interpreter a first touch goes by the reader's lock (`_look_up`), and the control block stays
 *    mapped for good: a thread may be about to load its word.
 *
 * Built for the limited API of Python 3.11, so that one file serves every later version; the free-threaded build has
 * no limited API and is built for its own version.
 */

#if !defined(Py_GIL_DISABLED) && !defined(Py_LIMITED_API)
#define Py_LIMITED_API 0x030b0000
#endif
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the format is little-endian"
#endif

/* --- the format: docs/format.md, checked against shmroute.shm.layout by tests ------------------------------------ */

#define INTERFACE 3 /* counts up with each change of what Python sees: shmroute.native compares it */
#define FORMAT_VERSION 3
#define GENERATION_AT 64
#define OLDEST_AT 72
#define CONTROL_WORDS_END 80
#define SLOTS_AT 128
#define RECORD_BYTES 16
#define MAX_KEY 0xffff
#define BATCH_BYTES 40
#define WORD_BYTES 8
#define KEY_PLACE_SHIFT 26
#define MAX_KEY_PLACE 31
#define VALUE_MASK ((1u << 26) - 1)
#define DELETED (1u << 31)

#define MAX_BATCHES (1 << 20) /* bytes of log that `_advance` copies; more is left to `RowReader.refresh` */
#define MAX_RECORD 4096 /* bytes of a record that a first touch copies to the stack; larger ones go by `_look_up` */
#define MAX_PROBES 4096 /* slots looked at before `_look_up` takes over, which reports a table without a free slot */
#define RECENT 4096     /* places for keys looked up lately; a power of two */
#define SHARED 1024     /* places for strings that several values share, such as an app's name; 4,096 miss the processor's
                         * caches, and a first touch takes 6 % longer */

static uint32_t load32(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint64_t load64(const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

/* One aligned word that another process may store at any time. */
static uint64_t load_word(const void *at)
{
    return __atomic_load_n((const uint64_t *)at, __ATOMIC_ACQUIRE);
}

static uint32_t crc_table[8][256];

static void make_crc_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
        crc_table[0][byte] = crc;
    }
    for (uint32_t byte = 0; byte < 256; byte++)
        for (int table = 1; table < 8; table++)
            crc_table[table][byte] =
                crc_table[table - 1][byte] >> 8 ^ crc_table[0][crc_table[table - 1][byte] & 0xff];
}

/* The CRC-32 of zlib, eight bytes at a time (slicing-by-8, Kounavis and Berry 2005). */
static uint32_t crc32_of(const unsigned char *data, size_t length, uint32_t crc)
{
    crc = ~crc;
    for (; length >= 8; length -= 8, data += 8) {
        uint64_t word = load64(data) ^ crc;
        crc = crc_table[7][word & 0xff] ^ crc_table[6][word >> 8 & 0xff] ^ crc_table[5][word >> 16 & 0xff] ^
              crc_table[4][word >> 24 & 0xff] ^ crc_table[3][word >> 32 & 0xff] ^ crc_table[2][word >> 40 & 0xff] ^
              crc_table[1][word >> 48 & 0xff] ^ crc_table[0][word >> 56]; /* written out: compilers keep a loop */
    }
    for (; length; length--, data++)
        crc = crc >> 8 ^ crc_table[0][(crc ^ *data) & 0xff];
    return ~crc;
}

#define ROTATE(word, by) ((word) << (by) | (word) >> (64 - (by)))
#define SIP_ROUND \
    v0 += v1, v2 += v3, v1 = ROTATE(v1, 13) ^ v0, v3 = ROTATE(v3, 16) ^ v2, v0 = ROTATE(v0, 32), \
    v2 += v1, v0 += v3, v1 = ROTATE(v1, 17) ^ v2, v3 = ROTATE(v3, 21) ^ v0, v2 = ROTATE(v2, 32)

/* SipHash-1-3 (Aumasson and Bernstein 2012) with the key (key, 0). */
static uint64_t siphash13(uint64_t key, const unsigned char *data, size_t length)
{
    uint64_t v0 = key ^ 0x736f6d6570736575u, v1 = 0x646f72616e646f6du;
    uint64_t v2 = key ^ 0x6c7967656e657261u, v3 = 0x7465646279746573u;
    uint64_t last = (uint64_t)length << 56;
    for (; length >= 8; length -= 8, data += 8) {
        uint64_t word = load64(data);
        v3 ^= word;
        SIP_ROUND;
        v0 ^= word;
    }
    while (length--)
        last |= (uint64_t)data[length] << (8 * length);
    v3 ^= last;
    SIP_ROUND;
    v0 ^= last;
    v2 ^= 0xff;
    SIP_ROUND;
    SIP_ROUND;
    SIP_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

/* --- one reader's look-up in one table --------------------------------------------------------------------------- */

static const uint64_t never = UINT64_MAX; /* a word that no `seen` equals */

/* A key that the cache had lately. One place is one line of memory where a dict's look-up takes two in far apart pages,
 * which a large cache finds cold: that is a fifth of a warm look-up. */
typedef struct {
    Py_hash_t hash;
    PyObject *key; /* NULL: empty */
    PyObject *value;
} Recent;

static hashfunc hash_of_str; /* what PyObject_Hash calls for an exact str */

typedef struct {
    PyObject_HEAD
    PyObject *cache;   /* key -> value */
    Recent *recent;    /* some of the cache, by hash */
    PyObject *decode;  /* makes a value of a row's bytes */
    PyObject *damage;  /* the exception class of `decode` for bytes that it cannot decode */
    PyObject *make;    /* makes a value of a row that is an array of `strings` strings and an empty array, or NULL */
    PyObject **shared; /* strings made lately, by their bytes */
    Py_ssize_t strings;
    Py_ssize_t limit;  /* entries of the cache */
    uint16_t kind;
    uint16_t also; /* a kind whose key ends with "/" and a key of this table, which it concerns too; 0: none */
    /* The position. Everything below changes in `_disable` and `_enable` only. */
    const uint64_t *word; /* the generation word */
    uint64_t seen;        /* its bits in the generation that the cache belongs to */
    uint64_t moves;       /* grows with each change of the position */
    const uint64_t *oldest;
    const unsigned char *base; /* the segment; NULL: every first touch goes by `_look_up` */
    uint64_t start, hash_key, slots, records_at, end, capacity;
    Py_buffer control, segment;
} Lookup;

static void set_word(Lookup *self, const uint64_t *word)
{
    __atomic_store_n(&self->word, word, __ATOMIC_RELEASE);
}

/* Leave the position: the pointer to the word first, the mappings last. */
static void leave(Lookup *self)
{
    set_word(self, &never);
    self->moves++;
    self->base = NULL;
    self->oldest = &never;
    Py_buffer control = self->control, segment = self->segment;
    memset(&self->control, 0, sizeof control);
    memset(&self->segment, 0, sizeof segment);
    if (segment.obj)
        PyBuffer_Release(&segment);
#ifndef Py_GIL_DISABLED
    if (control.obj)
        PyBuffer_Release(&control);
#endif
}

/* The record at that word, copied to `copy` and checked. Returns its length, or 0 where there is no valid one. */
static size_t copy_record(const Lookup *self, uint64_t word, uint64_t end, unsigned char *copy)
{
    uint64_t at = word * WORD_BYTES;
    if (at < self->records_at || at > end || end - at < RECORD_BYTES)
        return 0;
    memcpy(copy, self->base + at, RECORD_BYTES);
    uint32_t info = load32(copy + 8);
    uint64_t key_length = copy[4] | copy[5] << 8, value_length = info & VALUE_MASK;
    uint64_t place = info >> KEY_PLACE_SHIFT & MAX_KEY_PLACE;
    uint64_t length = RECORD_BYTES + value_length + (place ? 0 : key_length);
    length = (length + WORD_BYTES - 1) & ~(uint64_t)(WORD_BYTES - 1);
    if (length > MAX_RECORD || length > end - at || (place && place + key_length > value_length))
        return 0;
    memcpy(copy + RECORD_BYTES, self->base + at + RECORD_BYTES, length - RECORD_BYTES);
    if (crc32_of(copy + 4, length - 4, 0) != load32(copy))
        return 0;
    return length;
}

/* Find the row and copy its record. Returns the value's length, or -1 where `_look_up` has to say what is the matter. */
static Py_ssize_t find(const Lookup *self, const char *key, size_t key_length, unsigned char *copy)
{
    unsigned char hashed[2 + MAX_RECORD];
    if (key_length > MAX_RECORD - RECORD_BYTES)
        return -1;
    memcpy(hashed, &self->kind, 2);
    memcpy(hashed + 2, key, key_length);
    uint32_t hash = (uint32_t)siphash13(self->hash_key, hashed, 2 + key_length);
    uint64_t slot = (uint64_t)hash * self->slots >> 32, end_word = self->end / WORD_BYTES;
    for (int probes = 0; probes < MAX_PROBES; probes++) {
        uint64_t entry = load_word(self->base + SLOTS_AT + slot * WORD_BYTES);
        if (!entry)
            return -1;
        uint64_t word = (uint32_t)entry;
        if (((uint32_t)(entry >> 32) ^ (uint32_t)word) == hash) {
            while (word >= end_word) { /* newer than the reader's generation */
                if (!copy_record(self, word, self->capacity, copy) || load32(copy + 12) >= word)
                    return -1;
                word = load32(copy + 12);
            }
            if (!word || !copy_record(self, word, self->end, copy))
                return -1;
            uint32_t info = load32(copy + 8), place = info >> KEY_PLACE_SHIFT & MAX_KEY_PLACE;
            size_t value_length = info & VALUE_MASK;
            const unsigned char *found = copy + RECORD_BYTES + (place ? place : value_length);
            if ((size_t)(copy[4] | copy[5] << 8) == key_length && !memcmp(copy + 6, &self->kind, 2) &&
                !memcmp(found, key, key_length)) {
                /* The loads above come before this one, which tells whether they can be believed. */
                __atomic_thread_fence(__ATOMIC_ACQUIRE);
                if (load_word(self->oldest) > self->start || info & DELETED)
                    return -1;
                return (Py_ssize_t)value_length;
            }
        }
        if (++slot == self->slots)
            slot = 0;
    }
    return -1;
}

static void replace(PyObject **place, PyObject *object)
{
    PyObject *former = *place;
    Py_XINCREF(object);
    *place = object;
    Py_XDECREF(former);
}

/* A str of these bytes: one made before if it is still in its place. */
static PyObject *shared_string(Lookup *self, const unsigned char *data, size_t length)
{
    uint64_t mixed = length;
    for (size_t at = 0; at < length; at += 8) {
        uint64_t word = 0;
        memcpy(&word, data + at, length - at < 8 ? length - at : 8);
        mixed = (mixed ^ word) * 0x9e3779b97f4a7c15u;
        mixed ^= mixed >> 32;
    }
    PyObject **place = &self->shared[mixed % SHARED];
    if (*place) {
        Py_ssize_t there;
        const char *text = PyUnicode_AsUTF8AndSize(*place, &there);
        if (text && (size_t)there == length && !memcmp(text, data, length))
            return Py_NewRef(*place);
        PyErr_Clear();
    }
    PyObject *made = PyUnicode_DecodeUTF8((const char *)data, (Py_ssize_t)length, NULL);
    if (made)
        replace(place, made);
    return made;
}

#define MAX_STRINGS 8

/* The value of a row of `strings` strings and an empty array. NULL without an exception: the row is another one. */
static PyObject *made_of_strings(Lookup *self, PyObject *key, const char *name, size_t name_length,
                                 const unsigned char *value, size_t length)
{
    const unsigned char *end = value + length;
    if (!length || *value++ != (0x90 | (self->strings + 1)))
        return NULL;
    const unsigned char *texts[MAX_STRINGS];
    size_t lengths[MAX_STRINGS];
    for (Py_ssize_t number = 0; number < self->strings; number++) {
        if (value == end)
            return NULL;
        unsigned char tag = *value++;
        if (tag >> 5 == 5)
            lengths[number] = tag & 31;
        else if (tag == 0xd9 && value < end)
            lengths[number] = *value++;
        else
            return NULL;
        if ((size_t)(end - value) < lengths[number])
            return NULL;
        texts[number] = value;
        value += lengths[number];
    }
    if (end - value != 1 || *value != 0x90)
        return NULL;
    PyObject *arguments = PyTuple_New(self->strings);
    if (!arguments)
        return NULL;
    PyObject *made = NULL;
    for (Py_ssize_t number = 0; number < self->strings; number++) {
        PyObject *text;
        if (lengths[number] == name_length && !memcmp(texts[number], name, name_length))
            text = Py_NewRef(key); /* the caller's own str: the cache keeps it anyway */
        else
            text = shared_string(self, texts[number], lengths[number]);
        if (!text || PyTuple_SetItem(arguments, number, text) < 0) {
            PyErr_Clear(); /* not UTF-8: the decoder says so */
            goto done;
        }
    }
    made = PyObject_CallObject(self->make, arguments);
done:
    Py_DECREF(arguments);
    return made;
}

/* A row that is not in the cache. NULL without an exception: `_look_up` has to do it. */
static PyObject *first_touch(Lookup *self, PyObject *key)
{
#ifdef Py_GIL_DISABLED
    (void)self, (void)key;
    return NULL;
#else
    if (!self->base || !PyUnicode_CheckExact(key) || PyDict_Size(self->cache) >= self->limit)
        return NULL;
    Py_ssize_t key_length;
    const char *name = PyUnicode_AsUTF8AndSize(key, &key_length);
    if (!name) { /* a lone surrogate: no key has one */
        PyErr_Clear();
        return NULL;
    }
    uint64_t moves = self->moves;
    unsigned char copy[MAX_RECORD];
    Py_ssize_t length = find(self, name, (size_t)key_length, copy);
    if (length < 0)
        return NULL;
    const unsigned char *value = copy + RECORD_BYTES;
    PyObject *made = NULL;
    if (self->make)
        made = made_of_strings(self, key, name, (size_t)key_length, value, (size_t)length);
    if (!made && !PyErr_Occurred() && self->decode) {
        PyObject *bytes = PyBytes_FromStringAndSize((const char *)value, length);
        if (bytes) {
            made = PyObject_CallFunctionObjArgs(self->decode, bytes, NULL);
            Py_DECREF(bytes);
        }
        if (!made && self->damage && PyErr_ExceptionMatches(self->damage)) {
            PyErr_Clear();
            return NULL;
        }
    }
    if (made && self->moves == moves && PyDict_SetItem(self->cache, key, made) < 0)
        Py_CLEAR(made);
    return made;
#endif
}

/* Fill a place, or empty it. What it had is released last, which may run other code. */
static void remember(Recent *place, Py_hash_t hash, PyObject *key, PyObject *value)
{
    Recent former = *place;
    Py_XINCREF(key);
    Py_XINCREF(value);
    place->hash = hash;
    place->key = key;
    place->value = value;
    Py_XDECREF(former.key);
    Py_XDECREF(former.value);
}

static void forget_recent(Lookup *self)
{
    for (int place = 0; self->recent && place < RECENT; place++)
        if (self->recent[place].key)
            remember(&self->recent[place], 0, NULL, NULL);
}

/* The value from the cache or the segment. NULL without an exception: `_look_up` has to do it. */
__attribute__((always_inline)) /* the two callers are the warm path */
static inline PyObject *quick(Lookup *self, PyObject *key)
{
    const uint64_t *word = __atomic_load_n(&self->word, __ATOMIC_ACQUIRE);
    if (load_word(word) != __atomic_load_n(&self->seen, __ATOMIC_RELAXED))
        return NULL;
#ifdef Py_GIL_DISABLED
    PyObject *found;
    if (PyDict_GetItemRef(self->cache, key, &found) > 0)
        return found;
#else
    Recent *recent = NULL;
    Py_hash_t hash = 0;
    if (PyUnicode_CheckExact(key)) {
        hash = hash_of_str(key);
        recent = &self->recent[hash & (RECENT - 1)];
        if (recent->key && recent->hash == hash && (recent->key == key || !PyUnicode_Compare(recent->key, key)))
            return Py_NewRef(recent->value);
    }
    PyObject *found = PyDict_GetItemWithError(self->cache, key);
    if (found) {
        Py_INCREF(found);
        if (recent)
            remember(recent, hash, key, found);
        return found;
    }
#endif
    if (PyErr_Occurred()) {
        if (!PyErr_ExceptionMatches(PyExc_TypeError)) /* else: not hashable, and `_look_up` says what is expected */
            return NULL;
        PyErr_Clear();
        return NULL;
    }
    return first_touch(self, key);
}

PyDoc_STRVAR(resolve_doc,
"resolve($self, /, model, *, namespace=None, max_age=None)\n"
"--\n"
"\n"
"Return which app serves `model`.\n"
"\n"
"Takes well under a microsecond once this process has looked the model up, never waits, and may be called from\n"
"any thread, from `async def` functions, and before and after a fork.\n"
"\n"
"Args:\n"
"    model: the model's name, as an AppModel spells it.\n"
"    namespace: the namespace whose route is wanted; by default that of the oldest AppModel that has the model.\n"
"    max_age: refuse to answer from routes that were last known to be in step with their source longer ago than\n"
"        this, in seconds.\n"
"\n"
"Raises:\n"
"    ModelNotFound: no app serves it (a `LookupError`).\n"
"    NotReady: nothing has been published yet.\n"
"    StaleRoutes: the routes are older than `max_age`.\n"
"    AreaUnreadable, NoAccess: the area cannot be read at all.\n"
"    TypeError: `model` is not a str.");

__attribute__((noinline)) /* so that the warm path saves no registers for it */
static PyObject *resolve_slowly(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    static char *keywords[] = {"model", "namespace", "max_age", NULL};
    PyObject *model, *namespace = Py_None, *max_age = Py_None, *result = NULL;
    PyObject *positional = PyTuple_New(count), *named = PyDict_New();
    if (!positional || !named)
        goto done;
    for (Py_ssize_t number = 0; number < count; number++)
        if (PyTuple_SetItem(positional, number, Py_NewRef(args[number])) < 0)
            goto done;
    for (Py_ssize_t number = 0; names && number < PyTuple_Size(names); number++)
        if (PyDict_SetItem(named, PyTuple_GetItem(names, number), args[count + number]) < 0)
            goto done;
    if (PyArg_ParseTupleAndKeywords(positional, named, "O|$OO:resolve", keywords, &model, &namespace, &max_age)) {
        PyObject *method = PyObject_GetAttrString(self, "_look_up");
        if (method) {
            result = PyObject_CallFunctionObjArgs(method, model, namespace, max_age, NULL);
            Py_DECREF(method);
        }
    }
done:
    Py_XDECREF(positional);
    Py_XDECREF(named);
    return result;
}

static PyObject *resolve(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    if (count == 1 && !names) {
        PyObject *found = quick((Lookup *)self, args[0]);
        if (found || PyErr_Occurred())
            return found;
    }
    return resolve_slowly(self, args, count, names);
}

static PyObject *subscript(PyObject *self, PyObject *key)
{
    PyObject *found = quick((Lookup *)self, key);
    if (found || PyErr_Occurred())
        return found;
    PyObject *method = PyObject_GetAttrString(self, "_look_up");
    if (!method)
        return NULL;
    found = PyObject_CallFunctionObjArgs(method, key, NULL);
    Py_DECREF(method);
    return found;
}

/* --- what shmroute.worker.position calls ------------------------------------------------------------------------- */

/* On a free-threaded interpreter the recent keys stay empty: they are read without a lock. */
static PyObject *disable(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    leave((Lookup *)self);
    Py_RETURN_NONE;
}

static PyObject *drop(PyObject *self, PyObject *key)
{
    Py_hash_t hash = PyObject_Hash(key);
    if (hash == -1)
        return NULL;
    Recent *recent = &((Lookup *)self)->recent[hash & (RECENT - 1)];
    if (recent->hash == hash)
        remember(recent, 0, NULL, NULL);
    if (PyDict_DelItem(((Lookup *)self)->cache, key) < 0) {
        if (!PyErr_ExceptionMatches(PyExc_KeyError))
            return NULL;
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}

/* Take a key out of the cache and the recent keys. The values go into `dropped`, so that they are released later. */
static int take_out(Lookup *self, PyObject *key, PyObject *dropped)
{
    Py_hash_t hash = PyObject_Hash(key);
    if (hash == -1)
        return -1;
    Recent *recent = &self->recent[hash & (RECENT - 1)];
    if (recent->key && recent->hash == hash) {
        if (PyList_Append(dropped, recent->value) < 0)
            return -1;
        remember(recent, 0, NULL, NULL);
    }
    PyObject *value = PyDict_GetItemWithError(self->cache, key);
    if (!value)
        return PyErr_Occurred() ? -1 : 0;
    return PyList_Append(dropped, value) < 0 ? -1 : PyDict_DelItem(self->cache, key);
}

/* One row of a batch has changed. Rows of other tables go into `others`, as (kind, key). */
static int row_changed(Lookup *self, uint16_t kind, const char *key, Py_ssize_t length, PyObject *absent,
                       PyObject *dropped, PyObject *others)
{
    PyObject *text = PyUnicode_DecodeUTF8(key, length, NULL);
    int failed = text ? 0 : -1;
    if (text && kind == self->kind) {
        failed = take_out(self, text, dropped);
        int there = failed || !PyDict_Size(absent) ? 0 : PyDict_Contains(absent, text);
        failed = failed || there < 0 || (there && PyDict_DelItem(absent, text) < 0) ? -1 : 0;
    }
    else if (text) {
        const char *slash = kind == self->also ? memchr(key, '/', (size_t)length) : NULL;
        if (slash) {
            PyObject *own = PyUnicode_DecodeUTF8(slash + 1, key + length - slash - 1, NULL);
            failed = own ? take_out(self, own, dropped) : -1;
            Py_XDECREF(own);
        }
        PyObject *pair = failed ? NULL : Py_BuildValue("(HO)", kind, text);
        failed = pair ? PyList_Append(others, pair) : -1;
        Py_XDECREF(pair);
    }
    Py_XDECREF(text);
    return failed;
}

/* Walk the plain batches in `copy` from generation `seen` to `published`. Returns 1 if that is all of it, 0 if the log
 * is not plain (sealed, damaged, overwritten), -1 with an exception. */
static int walk_batches(Lookup *self, const unsigned char *copy, uint64_t length, uint64_t seen, uint64_t published,
                        uint64_t *walked, PyObject *absent, PyObject *dropped, PyObject *others)
{
    uint64_t at = 0;
    for (uint64_t generation = seen; generation < published; generation++) {
        if (length - at < BATCH_BYTES)
            return 0;
        const unsigned char *batch = copy + at;
        uint64_t size = load32(batch + 16), records = load32(batch + 20);
        if (load64(batch) != generation + 1 || load32(batch + 24) || size < BATCH_BYTES || size > length - at ||
            size % WORD_BYTES ||
            crc32_of(batch + BATCH_BYTES, size - BATCH_BYTES, crc32_of(batch, 36, 0)) != load32(batch + 36))
            return 0;
        for (uint64_t row = BATCH_BYTES; records; records--) {
            if (row > size || size - row < RECORD_BYTES)
                return 0;
            const unsigned char *record = batch + row;
            uint32_t info = load32(record + 8), place = info >> KEY_PLACE_SHIFT & MAX_KEY_PLACE;
            uint64_t key_length = record[4] | record[5] << 8, value_length = info & VALUE_MASK;
            uint64_t key = place ? place : value_length, whole = value_length + (place ? 0 : key_length);
            if (size - row - RECORD_BYTES < whole || key + key_length > whole)
                return 0;
            uint16_t kind;
            memcpy(&kind, record + 6, 2);
            if (row_changed(self, kind, (const char *)record + RECORD_BYTES + key, (Py_ssize_t)key_length, absent,
                            dropped, others) < 0)
                return -1;
            row += (RECORD_BYTES + whole + WORD_BYTES - 1) & ~(uint64_t)(WORD_BYTES - 1);
        }
        at += size;
    }
    *walked = at;
    return 1;
}

PyDoc_STRVAR(advance_doc,
"_advance($self, absent, /)\n"
"--\n"
"\n"
"Go to the newest generation along the log and forget what it changed: see `shmroute.worker.lookup`.");

static PyObject *advance(PyObject *object, PyObject *absent)
{
    Lookup *self = (Lookup *)object;
    double seen, newest;
    uint64_t bits = load_word(self->word), walked = 0;
    memcpy(&newest, &bits, sizeof newest);
    memcpy(&seen, &self->seen, sizeof seen);
    if (!self->base || !(newest > seen && newest < 9007199254740992.0) || newest != (double)(uint64_t)newest ||
        newest - seen > MAX_BATCHES || !PyDict_Check(absent))
        Py_RETURN_NONE;
    /* What the batches take, as their headers say; checked in the copy. */
    uint64_t published = (uint64_t)newest, length = 0, room = self->capacity - self->end;
    for (uint64_t generation = (uint64_t)seen; generation < published; generation++) {
        if (room - length < BATCH_BYTES)
            Py_RETURN_NONE;
        uint64_t size = load32(self->base + self->end + length + 16);
        if (size < BATCH_BYTES || size % WORD_BYTES || size > room - length || length + size > MAX_BATCHES)
            Py_RETURN_NONE;
        length += size;
    }
    PyObject *dropped = PyList_New(0), *others = PyList_New(0), *result = NULL;
    unsigned char *copy = malloc(length ? length : 1);
    if (!dropped || !others || !copy) {
        PyErr_NoMemory();
        goto done;
    }
    memcpy(copy, self->base + self->end, length);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    int plain = 0;
    uint64_t moves = ++self->moves;
    if (load_word(self->oldest) <= self->start)
        plain = walk_batches(self, copy, length, (uint64_t)seen, published, &walked, absent, dropped, others);
    if (self->moves != moves && plain > 0)
        plain = 0; /* a finalizer that the garbage collector called has looked up, and moved */
    if (plain > 0) {
        self->end += walked;
        result = Py_BuildValue("(KKO)", (unsigned long long)published, (unsigned long long)self->end, others);
        if (result)
            __atomic_store_n(&self->seen, bits, __ATOMIC_RELEASE);
    }
    else if (!plain)
        result = Py_NewRef(Py_None);
done:
    free(copy);
    Py_XDECREF(others);
    Py_XDECREF(dropped); /* last: what it holds may look up when it goes */
    return result;
}

static PyObject *drop_all(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    forget_recent((Lookup *)self);
    PyDict_Clear(((Lookup *)self)->cache);
    Py_RETURN_NONE;
}

PyDoc_STRVAR(enable_doc,
"_enable($self, control, segment, header, end, seen, /)\n"
"--\n"
"\n"
"Answer as long as the generation word in `control` is `seen`: see `shmroute.worker.lookup`.");

static PyObject *enable(PyObject *object, PyObject *args)
{
    Lookup *self = (Lookup *)object;
    PyObject *control, *segment;
    unsigned long long start, identity, key, test, slots, records_at, log_at, capacity, rows, end;
    double seen;
    if (!PyArg_ParseTuple(args, "OO(KKKKKKKKK)Kd:_enable", &control, &segment, &start, &identity, &key, &test, &slots,
                          &records_at, &log_at, &capacity, &rows, &end, &seen))
        return NULL;
    leave(self);
    if (PyObject_GetBuffer(control, &self->control, PyBUF_SIMPLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(segment, &self->segment, PyBUF_SIMPLE) < 0) {
        PyBuffer_Release(&self->control);
        return NULL;
    }
    const unsigned char *words = self->control.buf, *base = self->segment.buf;
    if (self->control.len < CONTROL_WORDS_END || (uintptr_t)words % 8 || (uintptr_t)base % 8 || !slots ||
        slots > UINT32_MAX || records_at != SLOTS_AT + slots * WORD_BYTES || records_at > log_at || log_at > end ||
        end > capacity ||
        end % WORD_BYTES || capacity > (unsigned long long)self->segment.len) {
        leave(self);
        PyErr_SetString(PyExc_ValueError, "these buffers are no control block and segment of this format");
        return NULL;
    }
    self->start = start;
    self->hash_key = key;
    self->slots = slots;
    self->records_at = records_at;
    self->capacity = capacity;
    self->end = end;
    self->oldest = (const uint64_t *)(words + OLDEST_AT);
    self->base = base;
    uint64_t bits;
    memcpy(&bits, &seen, sizeof bits);
    __atomic_store_n(&self->seen, bits, __ATOMIC_RELAXED);
    set_word(self, (const uint64_t *)(words + GENERATION_AT));
    Py_RETURN_NONE;
}

/* --- the types ---------------------------------------------------------------------------------------------------- */

static PyObject *lookup_new(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(kwargs))
{
    allocfunc allocate = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    Lookup *self = (Lookup *)allocate(type, 0); /* zeroed */
    if (!self)
        return NULL;
    self->word = self->oldest = &never;
    self->cache = PyDict_New();
    self->recent = calloc(RECENT, sizeof *self->recent);
    if (!self->cache || !self->recent) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static int lookup_init(PyObject *object, PyObject *args, PyObject *kwargs)
{
    static char *keywords[] = {"kind", "decode", "damage", "limit", "make", "strings", "also", NULL};
    Lookup *self = (Lookup *)object;
    PyObject *decode, *damage, *make = Py_None;
    Py_ssize_t limit, strings = 0;
    unsigned short kind, also = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "HOOn|OnH", keywords, &kind, &decode, &damage, &limit, &make,
                                     &strings, &also))
        return -1;
    if (make != Py_None && (strings < 1 || strings > MAX_STRINGS)) {
        PyErr_Format(PyExc_ValueError, "strings: 1 to %d", MAX_STRINGS);
        return -1;
    }
    if (make != Py_None && !self->shared && !(self->shared = calloc(SHARED, sizeof *self->shared))) {
        PyErr_NoMemory();
        return -1;
    }
    self->kind = kind;
    self->also = also;
    self->limit = limit;
    self->strings = strings;
    replace(&self->decode, decode);
    replace(&self->damage, damage);
    replace(&self->make, make == Py_None ? NULL : make);
    return 0;
}

static int lookup_traverse(PyObject *object, visitproc visit, void *arg)
{
    Lookup *self = (Lookup *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->cache);
    Py_VISIT(self->decode);
    Py_VISIT(self->damage);
    Py_VISIT(self->make);
    for (int place = 0; self->recent && place < RECENT; place++)
        Py_VISIT(self->recent[place].value);
    return 0;
}

/* The cache stays a dict, since other threads may still look up. */
static int lookup_clear(PyObject *object)
{
    Lookup *self = (Lookup *)object;
    leave(self);
    Py_CLEAR(self->decode);
    Py_CLEAR(self->make);
    Py_CLEAR(self->damage);
    forget_recent(self);
    if (self->cache)
        PyDict_Clear(self->cache);
    return 0;
}

static void lookup_dealloc(PyObject *object)
{
    Lookup *self = (Lookup *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    lookup_clear(object);
    Py_CLEAR(self->cache);
    for (int place = 0; self->shared && place < SHARED; place++)
        Py_XDECREF(self->shared[place]);
    free(self->shared);
    free(self->recent);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(object);
    Py_DECREF(type);
}

static PyObject *get_cache(PyObject *self, void *Py_UNUSED(closure))
{
    return Py_NewRef(((Lookup *)self)->cache);
}

static PyGetSetDef lookup_getset[] = {{"_cache", get_cache, NULL, "Key -> value, as decoded.", NULL}, {0}};

static PyMethodDef lookup_methods[] = {
    {"_advance", advance, METH_O, advance_doc},
    {"_disable", disable, METH_NOARGS, "Send every look-up to `_look_up` from now on."},
    {"_drop", drop, METH_O, "Forget a row that has changed."},
    {"_drop_all", drop_all, METH_NOARGS, "Forget every row."},
    {"_enable", enable, METH_VARARGS, enable_doc},
    {0},
};

static PyType_Slot lookup_slots[] = {
    {Py_tp_doc, "A cache of one table's decoded rows, and where to find the others."},
    {Py_tp_new, lookup_new},
    {Py_tp_init, lookup_init},
    {Py_tp_traverse, lookup_traverse},
    {Py_tp_clear, lookup_clear},
    {Py_tp_dealloc, lookup_dealloc},
    {Py_tp_methods, lookup_methods},
    {Py_tp_getset, lookup_getset},
    {0, NULL},
};

static PyMethodDef route_methods[] = {
    {"resolve", (PyCFunction)(void (*)(void))resolve, METH_FASTCALL | METH_KEYWORDS, resolve_doc},
    {0},
};

static PyType_Slot route_slots[] = {{Py_tp_methods, route_methods}, {0, NULL}};
static PyType_Slot table_slots[] = {{Py_mp_subscript, subscript}, {0, NULL}};

#define FLAGS (Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE) /* the two types inherit Py_TPFLAGS_HAVE_GC with `Lookup` */

static PyType_Spec lookup_spec = {"shmroute._native.Lookup", sizeof(Lookup), 0, FLAGS | Py_TPFLAGS_HAVE_GC,
                                  lookup_slots};
static PyType_Spec route_spec = {"shmroute._native.RouteLookup", 0, 0, FLAGS, route_slots};
static PyType_Spec table_spec = {"shmroute._native.TableLookup", 0, 0, FLAGS, table_slots};

/* --- what shmroute.shm.writing.packing calls, and has the same in plain Python ------------------------------------- */

/* Where in a value its key is, so that it need not be stored twice; 0 if it is not there, or at the beginning. */
static uint32_t key_place(const char *key, Py_ssize_t key_length, const char *value, Py_ssize_t value_length)
{
    if (!key_length)
        return 0;
    for (Py_ssize_t place = 0; place <= MAX_KEY_PLACE && place + key_length <= value_length; place++)
        if (value[place] == *key && !memcmp(value + place, key, (size_t)key_length))
            return (uint32_t)place;
    return 0;
}

typedef struct {
    uint16_t kind;
    const char *key, *value;
    Py_ssize_t key_length, value_length;
} Row;

/* A row `((kind, key), value)` of a list, borrowed from it. Returns whether it fits, or -1 with an exception. */
static int row_at(PyObject *rows, Py_ssize_t number, Row *row)
{
    PyObject *item = PyList_GetItem(rows, number), *key = NULL, *value = NULL;
    if (item && PyTuple_Check(item) && PyTuple_Size(item) == 2) {
        key = PyTuple_GetItem(item, 0);
        value = PyTuple_GetItem(item, 1);
    }
    if (!key || !PyTuple_Check(key) || PyTuple_Size(key) != 2 || !PyBytes_Check(value)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "a row is a tuple ((kind, key), value) with a value of bytes");
        return -1;
    }
    int overflow;
    long kind = PyLong_AsLongAndOverflow(PyTuple_GetItem(key, 0), &overflow);
    if (kind == -1 && !overflow && PyErr_Occurred())
        return -1;
    row->key = PyUnicode_AsUTF8AndSize(PyTuple_GetItem(key, 1), &row->key_length);
    if (!row->key)
        return -1;
    row->kind = (uint16_t)kind;
    row->value = PyBytes_AsString(value);
    row->value_length = PyBytes_Size(value);
    return !overflow && kind == row->kind && row->key_length <= MAX_KEY && row->value_length <= (Py_ssize_t)VALUE_MASK;
}

PyDoc_STRVAR(measure_rows_doc,
"measure_rows(rows, /)\n"
"--\n"
"\n"
"How many bytes keys and values have, or None where a row does not fit: see `shmroute.shm.writing.packing`.");

static PyObject *measure_rows(PyObject *Py_UNUSED(module), PyObject *rows)
{
    unsigned long long keys = 0, values = 0;
    if (!PyList_Check(rows))
        return PyErr_Format(PyExc_TypeError, "measure_rows() takes a list");
    for (Py_ssize_t number = 0; number < PyList_Size(rows); number++) {
        Row row;
        int fits = row_at(rows, number, &row);
        if (fits < 0)
            return NULL;
        if (!fits)
            Py_RETURN_NONE;
        keys += (unsigned long long)row.key_length;
        values += (unsigned long long)row.value_length;
    }
    return Py_BuildValue("(KK)", keys, values);
}

/* One record that supersedes nothing, written to `to`. Returns its length. */
static size_t pack_record(const Row *row, unsigned char *to)
{
    uint32_t place = key_place(row->key, row->key_length, row->value, row->value_length), previous = 0;
    uint32_t sized = (uint32_t)row->value_length | place << KEY_PLACE_SHIFT;
    uint16_t key_length = (uint16_t)row->key_length;
    memcpy(to + 4, &key_length, 2);
    memcpy(to + 6, &row->kind, 2);
    memcpy(to + 8, &sized, 4);
    memcpy(to + 12, &previous, 4);
    memcpy(to + RECORD_BYTES, row->value, (size_t)row->value_length);
    size_t length = RECORD_BYTES + (size_t)row->value_length;
    if (!place) {
        memcpy(to + length, row->key, (size_t)row->key_length);
        length += (size_t)row->key_length;
    }
    for (; length % WORD_BYTES; length++)
        to[length] = 0;
    uint32_t crc = crc32_of(to + 4, length - 4, 0);
    memcpy(to, &crc, 4);
    return length;
}

PyDoc_STRVAR(pack_rows_doc,
"pack_rows(rows, hash_key, /)\n"
"--\n"
"\n"
"The records of these rows: see `shmroute.shm.writing.packing`.");

/* No Python code runs in here, and nobody else has the list: what is borrowed stays. */
static PyObject *pack_rows(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *rows, *placed = NULL, *result = NULL;
    unsigned long long hash_key;
    if (!PyArg_ParseTuple(args, "O!K:pack_rows", &PyList_Type, &rows, &hash_key))
        return NULL;
    Py_ssize_t count = PyList_Size(rows);
    size_t room = 0, used = 0;
    Row row;
    for (Py_ssize_t number = 0; number < count; number++) {
        int fits = row_at(rows, number, &row);
        if (fits <= 0)
            return fits ? NULL : PyErr_Format(PyExc_ValueError, "a row's kind, key or value does not fit");
        room += RECORD_BYTES + (size_t)row.value_length + (size_t)row.key_length + WORD_BYTES; /* padding included */
    }
    unsigned char *data = malloc(room + 1), *hashed = malloc(2 + MAX_KEY);
    placed = PyList_New(count);
    if (!data || !hashed || !placed) {
        PyErr_NoMemory();
        goto done;
    }
    for (Py_ssize_t number = 0; number < count; number++) {
        if (row_at(rows, number, &row) < 0)
            goto done;
        size_t length = pack_record(&row, data + used);
        used += length;
        memcpy(hashed, &row.kind, 2);
        memcpy(hashed + 2, row.key, (size_t)row.key_length);
        uint64_t hash = (uint32_t)siphash13(hash_key, hashed, 2 + (size_t)row.key_length);
        PyObject *entry = PyLong_FromUnsignedLongLong(hash << 32 | length / WORD_BYTES);
        if (!entry || PyList_SetItem(placed, number, entry) < 0)
            goto done;
    }
    result = Py_BuildValue("(y#O)", (const char *)data, (Py_ssize_t)used, placed);
done:
    free(data);
    free(hashed);
    Py_XDECREF(placed);
    return result;
}

PyDoc_STRVAR(point_slots_doc,
"point_slots(slots, placed, word, /)\n"
"--\n"
"\n"
"Lead a free slot to each of these records: see `shmroute.shm.writing.packing`.");

static PyObject *point_slots(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *placed;
    Py_buffer buffer;
    unsigned long long word;
    if (!PyArg_ParseTuple(args, "w*O!K:point_slots", &buffer, &PyList_Type, &placed, &word))
        return NULL;
    uint64_t *slots = buffer.buf, count = (uint64_t)buffer.len / WORD_BYTES;
    if ((uintptr_t)buffer.buf % WORD_BYTES || count > UINT32_MAX) {
        PyErr_SetString(PyExc_ValueError, "this buffer is no table of slots");
        goto failed;
    }
    for (Py_ssize_t number = 0; number < PyList_Size(placed); number++) {
        uint64_t each = PyLong_AsUnsignedLongLong(PyList_GetItem(placed, number));
        if (each == (uint64_t)-1 && PyErr_Occurred())
            goto failed;
        uint64_t hash = each >> 32, slot = hash * count >> 32, looked_at = 0;
        for (; looked_at < count && slots[slot]; looked_at++)
            if (++slot == count)
                slot = 0;
        if (looked_at == count || word > UINT32_MAX) {
            PyErr_SetString(PyExc_ValueError, "no slot is free, or a record lies beyond the largest segment");
            goto failed;
        }
        slots[slot] = (hash ^ word) << 32 | word;
        word += (uint32_t)each;
    }
    PyBuffer_Release(&buffer);
    Py_RETURN_NONE;
failed:
    PyBuffer_Release(&buffer);
    return NULL;
}

/* --- functions ----------------------------------------------------------------------------------------------------- */

static PyObject *siphash(PyObject *Py_UNUSED(module), PyObject *args)
{
    unsigned long long key;
    const char *data;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "Ky#:siphash", &key, &data, &length))
        return NULL;
    return PyLong_FromUnsignedLongLong(siphash13(key, (const unsigned char *)data, (size_t)length));
}

static PyMethodDef functions[] = {
    {"measure_rows", measure_rows, METH_O, measure_rows_doc},
    {"pack_rows", pack_rows, METH_VARARGS, pack_rows_doc},
    {"point_slots", point_slots, METH_VARARGS, point_slots_doc},
    {"siphash", siphash, METH_VARARGS, "siphash(key, data, /)\n--\n\nSipHash-1-3 with the key (key, 0), 64 bits."},
    {0},
};

static int execute(PyObject *module)
{
    make_crc_table();
    hash_of_str = (hashfunc)PyType_GetSlot(&PyUnicode_Type, Py_tp_hash);
    PyObject *lookup = PyType_FromModuleAndSpec(module, &lookup_spec, NULL);
    if (!lookup)
        return -1;
    int failed = PyModule_AddIntMacro(module, INTERFACE) < 0 || PyModule_AddIntMacro(module, FORMAT_VERSION) < 0;
    PyType_Spec *specs[] = {&route_spec, &table_spec};
    for (int number = 0; number < 2 && !failed; number++) {
        PyObject *type = PyType_FromModuleAndSpec(module, specs[number], lookup);
        failed = !type || PyModule_AddType(module, (PyTypeObject *)type) < 0;
        Py_XDECREF(type);
    }
    Py_DECREF(lookup);
    return failed ? -1 : 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, execute},
#ifdef Py_GIL_DISABLED
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "shmroute._native", "The native twin of the look-up.", 0, functions, module_slots,
    NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
