#include "archive_table.hpp"

#include "entry.hpp"

namespace underway {

namespace {

// Where a column comes from: the row's column of that number, or one of these.
enum : AttrNumber {
  from_nowhere = 0,  // null
  the_slot = -1,
  the_state = -2,
  the_end = -3,
  the_output = -4,
  the_notices = -5
};

pg::relation ring_slot("ring_slot");

AttrNumber source_of(const char* name, TupleDesc rows) {
  static constexpr struct {
    const char* name;
    AttrNumber from;
  } ours[] = {{"slot", the_slot},
              {"state", the_state},
              {"finished_at", the_end},
              {"output", the_output},
              {"notices", the_notices}};
  for (const auto& o : ours) {
    if (strcmp(o.name, name) == 0) {
      return o.from;
    }
  }
  const AttrNumber same = pg::column_named(rows, name);
  return same == from_nowhere && strcmp(name, "started_at") == 0
             ? pg::column_named(rows, "claimed_at")
             : same;
}

// The number of the table that rows go to now; the coordinator may not have opened any yet.
int read_open_slot() {
  pg::table rings;
  rings.open(ring_slot.oid(), AccessShareLock);
  ScanKeyData key;
  ScanKeyEntryInitialize(&key, 0, 1, BTEqualStrategyNumber, TEXTOID, DEFAULT_COLLATION_OID,
                         F_TEXTEQ, CStringGetTextDatum("succeeded"));
  rings.scan(pg::relation_named("ring_slot_open"), &key, 1);
  const int slot =
      rings.next() ? DatumGetInt16(rings.value(pg::column_named(rings.shape(), "slot"))) : 0;
  rings.close();
  return slot;
}

}  // namespace

archive_table task_archive("archive");
archive_table run_archive("run_archive");

void archive_table::find_sources(TupleDesc rows) {
  const TupleDesc shape = archive_.shape();
  if (shape->natts > pg::columns::most) {
    elog(ERROR, "underway: table %s has more columns than it should", name_);
  }
  for (int n = 0; n < shape->natts; n++) {
    const FormData_pg_attribute* a = TupleDescAttr(shape, n);
    sources_[n] = a->attisdropped ? AttrNumber{from_nowhere} : source_of(NameStr(a->attname), rows);
  }
}

void archive_table::open(const pg::table& rows, bool several) {
  several_ = several;
  const Oid ring = ring_slot.oid();
  const Oid from = RelationGetRelid(rows.get());
  if (!ring_known_.holds_of(ring)) {
    slot_ = read_open_slot();
    open_ = pg::relation_named(psprintf("%s_%d", name_, slot_));
    ring_known_.was_found(ring);
  }
  archive_.open(open_);
  if (!archive_known_.holds_of(open_) || !rows_known_.holds_of(from)) {
    find_sources(rows.shape());
    archive_known_.was_found(open_);
    rows_known_.was_found(from);
  }
}

void archive_table::put(const pg::table& row, Jsonb* output, const char* notices, TimestampTz now) {
  archive_.begin_row();
  for (int n = 0; n < archive_.shape()->natts; n++) {
    const auto to = static_cast<AttrNumber>(n + 1);
    const AttrNumber from = sources_[n];
    switch (from) {
      case from_nowhere:
        break;
      case the_slot:
        archive_.set(to, Int16GetDatum(slot_));
        break;
      case the_state:
        archive_.set(to, CStringGetTextDatum("succeeded"));
        break;
      case the_end:
        archive_.set(to, TimestampTzGetDatum(now));
        break;
      case the_output:
        archive_.set(to, JsonbPGetDatum(output), output == nullptr);
        break;
      case the_notices:
        if (notices != nullptr) {
          archive_.set(to, CStringGetTextDatum(notices));
        }
        break;
      default:
        archive_.set(to, row.value(from), row.null(from));
    }
  }
  if (several_) {
    archive_.insert_later();
  } else {
    archive_.insert();
  }
}

void archive_table::close() {
  archive_.insert_rest();
  archive_.close();
}

// The open table of a ring is another from the commit of this transaction on.
UNDERWAY_ENTRY(underway_ring_moved) {
  pg::call([] { CacheInvalidateRelcacheByRelid(ring_slot.oid()); });
  PG_RETURN_BOOL(true);
}

}  // namespace underway
