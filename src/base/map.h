// ==== >>map : stb_ds hash maps over reserved memory ====
#ifndef QI__MAP_H
#define QI__MAP_H

#include "memory.h"

// stb_ds asks for memory without saying for whom and does not look whether it got any. So every map is laid out in an arena for a
// number of entries that is known beforehand, and stb_ds never has to ask. All its names are private to this file: a host may have
// its own copy, before or after, implementation included.

// ---- stb_ds, renamed ----

#define stbds_rand_seed qi__stbds_rand_seed
#define stbds_hash_bytes qi__stbds_hash_bytes
#define stbds_hash_string qi__stbds_hash_string
#define stbds_stralloc qi__stbds_stralloc
#define stbds_strreset qi__stbds_strreset
#define stbds_unit_tests qi__stbds_unit_tests
#define stbds_arrgrowf qi__stbds_arrgrowf
#define stbds_arrfreef qi__stbds_arrfreef
#define stbds_hmfree_func qi__stbds_hmfree_func
#define stbds_hmget_key qi__stbds_hmget_key
#define stbds_hmget_key_ts qi__stbds_hmget_key_ts
#define stbds_hmput_default qi__stbds_hmput_default
#define stbds_hmput_key qi__stbds_hmput_key
#define stbds_hmdel_key qi__stbds_hmdel_key
#define stbds_shmode_func qi__stbds_shmode_func
#define stbds_array_header qi__stbds_array_header
#define stbds_string_arena qi__stbds_string_arena
#define stbds_string_block qi__stbds_string_block
#define stbds_hash_bucket qi__stbds_hash_bucket
#define stbds_hash_index qi__stbds_hash_index
#define stbds_hash_seed qi__stbds_hash_seed
#define stbds_probe_position qi__stbds_probe_position
#define stbds_log2 qi__stbds_log2
#define stbds_make_hash_index qi__stbds_make_hash_index
#define stbds_siphash_bytes qi__stbds_siphash_bytes
#define stbds_is_key_equal qi__stbds_is_key_equal
#define stbds_hm_find_slot qi__stbds_hm_find_slot
#define stbds_strdup qi__stbds_strdup
#define STBDS_SH_NONE QI__STBDS_SH_NONE
#define STBDS_SH_DEFAULT QI__STBDS_SH_DEFAULT
#define STBDS_SH_STRDUP QI__STBDS_SH_STRDUP
#define STBDS_SH_ARENA QI__STBDS_SH_ARENA

#ifdef __GNUC__
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-value"
#pragma GCC diagnostic ignored "-Wunused-parameter"
#pragma GCC diagnostic ignored "-Wsign-compare"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wpedantic"
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wstringop-overflow"
#pragma GCC diagnostic ignored "-Wnull-dereference"
#pragma GCC diagnostic ignored "-Wnonnull"
#pragma GCC diagnostic ignored "-Warray-bounds"
#endif
#endif
#pragma push_macro("INCLUDE_STB_DS_H")
#pragma push_macro("STB_DS_IMPLEMENTATION")
#pragma push_macro("STBDS_NO_SHORT_NAMES")
#pragma push_macro("STBDS_REALLOC")
#pragma push_macro("STBDS_FREE")
#pragma push_macro("STBDS_ASSERT")
#pragma push_macro("STBDS_UNIT_TESTS")
#undef INCLUDE_STB_DS_H
#undef STB_DS_IMPLEMENTATION
#undef STBDS_NO_SHORT_NAMES
#undef STBDS_REALLOC
#undef STBDS_FREE
#undef STBDS_ASSERT
#undef STBDS_UNIT_TESTS
#define STB_DS_IMPLEMENTATION
#define STBDS_NO_SHORT_NAMES
#define STBDS_REALLOC(context, ptr, size) ((void)(size), NULL) // never reached: see qi__map_reserve
#define STBDS_FREE(context, ptr) ((void)0)
#define STBDS_ASSERT(x) QI_ASSERT(x)

// What is declared static first stays static.
typedef struct stbds_string_arena stbds_string_arena;
static void stbds_rand_seed(size_t seed);
static size_t stbds_hash_bytes(void *p, size_t len, size_t seed);
static size_t stbds_hash_string(char *str, size_t seed);
static char *stbds_stralloc(stbds_string_arena *a, char *str);
static void stbds_strreset(stbds_string_arena *a);
static void *stbds_arrgrowf(void *a, size_t elemsize, size_t addlen, size_t min_cap);
static void stbds_arrfreef(void *a);
static void stbds_hmfree_func(void *p, size_t elemsize);
static void *stbds_hmget_key(void *a, size_t elemsize, void *key, size_t keysize, int mode);
static void *stbds_hmget_key_ts(void *a, size_t elemsize, void *key, size_t keysize, ptrdiff_t *temp, int mode);
static void *stbds_hmput_default(void *a, size_t elemsize);
static void *stbds_hmput_key(void *a, size_t elemsize, void *key, size_t keysize, int mode);
static void *stbds_hmdel_key(void *a, size_t elemsize, void *key, size_t keysize, size_t keyoffset, int mode);
static void *stbds_shmode_func(size_t elemsize, int mode);

#if defined(__has_include)
#if __has_include("stb_ds.h")
#include "stb_ds.h"
#elif __has_include(<stb/stb_ds.h>)
#include <stb/stb_ds.h>
#else
#error "qinfer needs stb_ds.h: apt-get install libstb-dev, or copy it from the stb repository beside qinfer.h"
#endif
#else
#include "stb_ds.h"
#endif

// ---- maps ----

typedef struct qi__str_entry {
  const char *key; // terminated; must stay as long as the map
  int32_t value;
} qi__str_entry;

typedef struct qi__pair_entry {
  uint64_t key; // see qi__pair_key
  int64_t value;
} qi__pair_entry;

// Text to number, and pair of numbers to number. Putting a key twice keeps the first value. Lookups change nothing: any thread.
typedef struct qi__str_map {
  qi__str_entry *entries; // NULL: empty
} qi__str_map;
typedef struct qi__pair_map {
  qi__pair_entry *entries;
} qi__pair_map;

// stb_ds grows an index that is three quarters full.
QI__FN size_t qi__map_slots(size_t n) {
  size_t slots = STBDS_BUCKET_LENGTH;
  while (slots - (slots >> 2) <= n && slots <= SIZE_MAX / 4) slots *= 2;
  return slots;
}

// Fills in what stbds_make_hash_index would, with a seed that a file's author cannot know.
QI__FN void qi__map_index_init(stbds_hash_index *index, stbds_hash_bucket *buckets, size_t slots, int string_mode) {
  memset(index, 0, sizeof *index);
  index->storage = buckets;
  index->slot_count = slots;
  index->slot_count_log2 = stbds_log2(slots);
  index->used_count_threshold = slots - (slots >> 2);
  index->tombstone_count_threshold = (slots >> 3) + (slots >> 4);
  index->seed = stbds_hash_seed ^ (size_t)(uintptr_t)buckets;
  index->string.mode = (unsigned char)string_mode;
  for (size_t i = 0; i < slots / STBDS_BUCKET_LENGTH; i++)
    for (size_t j = 0; j < STBDS_BUCKET_LENGTH; j++) {
      buckets[i].hash[j] = STBDS_HASH_EMPTY;
      buckets[i].index[j] = STBDS_INDEX_EMPTY;
    }
}

// An empty map for at most n entries of elem_size bytes; NULL while the arena counts.
QI__FN void *qi__map_reserve(qi__arena *arena, size_t n, size_t elem_size, int string_mode) {
  size_t slots = qi__map_slots(n);
  stbds_hash_bucket *buckets = QI__ARENA_ARRAY(arena, stbds_hash_bucket, slots / STBDS_BUCKET_LENGTH);
  stbds_hash_index *index = QI__ARENA_ARRAY(arena, stbds_hash_index, 1);
  // The header ends where the elements begin; both sizes keep 16-byte alignment.
  size_t payload;
  if (!qi__mul_size(n + 2, elem_size, &payload) || !qi__add_size(payload, sizeof(stbds_array_header), &payload)) {
    arena->overflow = true;
    return NULL;
  }
  stbds_array_header *header = (stbds_array_header *)qi__arena_take(arena, payload, 1, QI__CACHE_LINE);
  if (!header || !index || !buckets) return NULL;
  qi__map_index_init(index, buckets, slots, string_mode);
  char *elements = (char *)(header + 1);
  memset(elements, 0, elem_size); // stb_ds keeps a default entry first
  header->length = 1;
  header->capacity = n + 2;
  header->hash_table = index;
  header->temp = 0;
  return elements + elem_size;
}

QI__FN void qi__str_map_init(qi__str_map *m, qi__arena *arena, size_t n) {
  m->entries = (qi__str_entry *)qi__map_reserve(arena, n, sizeof(qi__str_entry), STBDS_SH_DEFAULT);
}

// At most as many puts as were reserved. False when the key was there already.
QI__FN bool qi__str_map_put(qi__str_map *m, const char *key, int32_t value) {
  stbds_array_header *header = stbds_header(m->entries - 1);
  size_t before = header->length;
  stbds_hmput_key(m->entries, sizeof *m->entries, (void *)(uintptr_t)key, sizeof(char *), STBDS_HM_STRING);
  if (header->length == before) return false;
  m->entries[header->temp].value = value;
  return true;
}

QI__FN bool qi__str_map_get(const qi__str_map *m, const char *key, int32_t *value) {
  ptrdiff_t i = -1;
  if (!m->entries) return false;
  stbds_hmget_key_ts(m->entries, sizeof *m->entries, (void *)(uintptr_t)key, sizeof(char *), &i, STBDS_HM_STRING);
  if (i < 0) return false;
  *value = m->entries[i].value;
  return true;
}

QI__FN void qi__pair_map_init(qi__pair_map *m, qi__arena *arena, size_t n) {
  m->entries = (qi__pair_entry *)qi__map_reserve(arena, n, sizeof(qi__pair_entry), STBDS_SH_NONE);
}

// Two numbers below 2^28 as eight bytes below 128: stb_ds shifts bytes as int, which is undefined for greater ones.
QI__INLINE uint64_t qi__pair_key(uint32_t a, uint32_t b) {
  uint64_t v = (uint64_t)a << 28 | b, key = 0;
  for (int i = 0; i < 8; i++) key |= (v >> (7 * i) & 0x7f) << (8 * i);
  return key;
}

QI__FN bool qi__pair_map_put(qi__pair_map *m, uint32_t a, uint32_t b, int64_t value) {
  uint64_t key = qi__pair_key(a, b);
  stbds_array_header *header = stbds_header(m->entries - 1);
  size_t before = header->length;
  stbds_hmput_key(m->entries, sizeof *m->entries, &key, sizeof key, STBDS_HM_BINARY);
  if (header->length == before) return false;
  m->entries[header->temp].value = value;
  return true;
}

QI__FN bool qi__pair_map_get(const qi__pair_map *m, uint32_t a, uint32_t b, int64_t *value) {
  uint64_t key = qi__pair_key(a, b);
  ptrdiff_t i = -1;
  if (!m->entries) return false;
  stbds_hmget_key_ts(m->entries, sizeof *m->entries, &key, sizeof key, &i, STBDS_HM_BINARY);
  if (i < 0) return false;
  *value = m->entries[i].value;
  return true;
}

// ---- names given back ----

#undef STB_DS_IMPLEMENTATION
#undef STBDS_NO_SHORT_NAMES
#undef STBDS_REALLOC
#undef STBDS_FREE
#undef STBDS_ASSERT
#pragma pop_macro("INCLUDE_STB_DS_H")
#pragma pop_macro("STB_DS_IMPLEMENTATION")
#pragma pop_macro("STBDS_NO_SHORT_NAMES")
#pragma pop_macro("STBDS_REALLOC")
#pragma pop_macro("STBDS_FREE")
#pragma pop_macro("STBDS_ASSERT")
#pragma pop_macro("STBDS_UNIT_TESTS")
#undef stbds_rand_seed
#undef stbds_hash_bytes
#undef stbds_hash_string
#undef stbds_stralloc
#undef stbds_strreset
#undef stbds_unit_tests
#undef stbds_arrgrowf
#undef stbds_arrfreef
#undef stbds_hmfree_func
#undef stbds_hmget_key
#undef stbds_hmget_key_ts
#undef stbds_hmput_default
#undef stbds_hmput_key
#undef stbds_hmdel_key
#undef stbds_shmode_func
#undef stbds_array_header
#undef stbds_string_arena
#undef stbds_string_block
#undef stbds_hash_bucket
#undef stbds_hash_index
#undef stbds_hash_seed
#undef stbds_probe_position
#undef stbds_log2
#undef stbds_make_hash_index
#undef stbds_siphash_bytes
#undef stbds_is_key_equal
#undef stbds_hm_find_slot
#undef stbds_strdup
#undef STBDS_SH_NONE
#undef STBDS_SH_DEFAULT
#undef STBDS_SH_STRDUP
#undef STBDS_SH_ARENA
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif

#endif // QI__MAP_H
