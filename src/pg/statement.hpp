// One prepared statement of ours, run by SPI as the extension's owner.
// Runs in: any backend and our own processes, inside a transaction. Error discipline: throws
// pg::error. Invariant: prepared once for the life of the process; plans are made again by the
// server when what they name changes.
#pragma once

#include "error.hpp"

namespace underway::pg {

struct value {
  Datum datum = 0;
  bool null = true;
};
inline value of(int32 v) noexcept { return {Int32GetDatum(v), false}; }
inline value of(int64 v) noexcept { return {Int64GetDatum(v), false}; }
inline value of(bool v) noexcept { return {BoolGetDatum(v), false}; }
inline value of(const Interval* v) noexcept { return {PointerGetDatum(v), v == nullptr}; }
inline value of(const pg_uuid_t* v) noexcept { return {UUIDPGetDatum(v), v == nullptr}; }
inline value of_oid(Oid v) noexcept { return {ObjectIdGetDatum(v), false}; }
inline value of_time(TimestampTz v) noexcept { return {TimestampTzGetDatum(v), false}; }
inline value of_datum(Datum v, bool null) noexcept { return {v, null}; }
// Allocates in the current context; call it where a longjmp is allowed.
inline value of_text(const char* v) {
  return v == nullptr ? value{} : value{CStringGetTextDatum(v), false};
}

// Null elements where `nulls` says so.
Datum array_of(Oid type, Datum* elements, int n, bool* nulls = nullptr);

// A row of the result, valid while SPI is connected.
class row {
 public:
  row(SPITupleTable* table, uint64 n) noexcept : table_(table), tuple_(table->vals[n]) {}
  value get(int column) const {
    value v;
    v.datum = SPI_getbinval(tuple_, table_->tupdesc, column, &v.null);
    return v;
  }
  bool null(int column) const { return get(column).null; }
  int32 int4(int column) const { return DatumGetInt32(get(column).datum); }
  int64 int8(int column) const { return DatumGetInt64(get(column).datum); }
  bool boolean(int column) const { return DatumGetBool(get(column).datum); }
  Oid oid(int column) const { return DatumGetObjectId(get(column).datum); }
  TimestampTz time(int column) const { return DatumGetTimestampTz(get(column).datum); }
  pg_uuid_t uuid(int column) const { return *DatumGetUUIDP(get(column).datum); }
  // Copies into the context given, detoasted; null stays nullptr.
  char* text(int column, MemoryContext to) const;
  Jsonb* jsonb(int column, MemoryContext to) const;
  Interval* interval(int column, MemoryContext to) const;

 private:
  SPITupleTable* table_;
  HeapTuple tuple_;
};

class statement {
 public:
  static constexpr int max_args = 16;
  template <class... Oids>
  constexpr explicit statement(const char* sql, Oids... types) noexcept
      : sql_(sql), types_{static_cast<Oid>(types)...}, n_(sizeof...(types)) {}

  // each(row) is called inside call(): trivially destructible locals only. Returns the number of
  // rows. at_latest: by a new snapshot, whatever the isolation level; the statement only reads, and
  // so does what it calls.
  template <class F> uint64 run(const value* args, F&& each, bool at_latest = false) {
    return call([&] {
      // SPI asks for one from somebody outside (pquery.c, EnsurePortalSnapshotExists); our
      // processes have no portal.
      const bool pushed = at_latest || !ActiveSnapshotSet();
      if (pushed) {
        PushActiveSnapshot(at_latest ? GetLatestSnapshot() : GetTransactionSnapshot());
      }
      const uint64 n = start(args, at_latest);
      for (uint64 i = 0; i < n && SPI_tuptable != nullptr; i++) {
        each(row(SPI_tuptable, i));
      }
      SPI_finish();
      if (pushed) {
        PopActiveSnapshot();
      }
      return n;
    });
  }
  uint64 run(const value* args) {
    return run(args, [](const row&) {});
  }

 private:
  uint64 start(const value* args, bool read_only);
  const char* sql_;
  Oid types_[max_args];
  int n_;
  SPIPlanPtr plan_ = nullptr;
};

}  // namespace underway::pg
