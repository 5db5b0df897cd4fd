// The SQL side of wake.hpp and marks.hpp: what internal functions call when they change a task or a
// queue. Runs in: any backend, as the extension's owner. Error discipline: boundaries.
#include "entry.hpp"
#include "wake.hpp"

namespace underway {

UNDERWAY_ENTRY(underway_note) {
  pg::call([fcinfo] {
    const row_key key = {PG_GETARG_TIMESTAMPTZ(2), *PG_GETARG_UUID_P(3)};
    note_pending(PG_GETARG_INT32(0), PG_GETARG_INT32(1), key, PG_GETARG_INT32(4));
  });
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_note_locked) {
  pg::call([fcinfo] {
    const row_key key = {PG_GETARG_TIMESTAMPTZ(2), *PG_GETARG_UUID_P(3)};
    note_locked(PG_GETARG_INT32(0), PG_GETARG_INT32(1), key);
  });
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_note_expiry) {
  note_expiry(PG_GETARG_TIMESTAMPTZ(0));
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_place_free) {
  pg::call([fcinfo] { note_place_free(PG_GETARG_INT32(0)); });
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_queue_changed) {
  pg::call([fcinfo] { note_queue_changed(PG_GETARG_INT32(0)); });
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_queues_loaded) {
  note_queues_loaded();
  return PointerGetDatum(nullptr);
}

UNDERWAY_ENTRY(underway_queue_created) {
  pg::call([fcinfo] { note_queue_created(PG_GETARG_INT32(0)); });
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_note_cancelled) {
  note_cancelled(*PG_GETARG_UUID_P(0));
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_note_look) {
  note_look();
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_note_control) {
  note_control();
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_note_deadline) {
  note_deadline(PG_GETARG_TIMESTAMPTZ(0));
  PG_RETURN_BOOL(true);
}

UNDERWAY_ENTRY(underway_finished) {
  pg::call([fcinfo] {
    Datum* ids = nullptr;
    int n = 0;
    deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), UUIDOID, UUID_LEN, false, TYPALIGN_CHAR, &ids,
                      nullptr, &n);
    for (int i = 0; i < n; i++) {
      note_finished(*DatumGetUUIDP(ids[i]));
    }
    pfree(ids);
  });
  PG_RETURN_BOOL(true);
}

}  // namespace underway
