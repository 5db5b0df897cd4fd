// A table of ours, read by one of its indexes and changed row by row, without a statement: for the
// two changes of state that happen to every task, where preparing to execute a statement of forty
// columns takes longer than executing it. Runs in: any backend, as the extension's owner, inside
// pg::call. Error discipline: server code, may raise; trivially destructible. Invariant: what a
// statement would respect is respected: visibility, concurrent changes by isolation level,
// read-only transactions, all indexes.
#pragma once

#include "indexes.hpp"
#include "relation.hpp"

namespace underway::pg {

// What a change that waits for nobody came to.
enum class changed {
  yes,
  locked,  // by somebody who has not ended
  no  // somebody else has changed the row, or it is gone; under REPEATABLE READ that is an error
};

class table {
 public:
  void open(Oid table, LOCKMODE lock = RowExclusiveLock);
  void open(relation* table, columns* used, LOCKMODE lock = RowExclusiveLock);
  void close();

  Relation get() const { return relation_; }
  TupleDesc shape() const { return relation_->rd_att; }
  // Of the row that was found.
  bool null(AttrNumber column) const { return found_->tts_isnull[column - 1]; }
  Datum value(AttrNumber column) const { return found_->tts_values[column - 1]; }
  int32 int4(AttrNumber column) const { return DatumGetInt32(value(column)); }
  TimestampTz time(AttrNumber column) const { return DatumGetTimestampTz(value(column)); }
  pg_uuid_t uuid(AttrNumber column) const { return *DatumGetUUIDP(value(column)); }
  // Copies, in the current context; null stays nullptr.
  char* text(AttrNumber column) const;
  Jsonb* jsonb(AttrNumber column) const;
  Interval* interval(AttrNumber column) const;
  // Of the row to be written, which begins with nulls, or as a copy of the one that was found.
  void begin_row();
  void begin_copy();
  void set(AttrNumber column, Datum value, bool null = false);

  // In the order of the index or against it, by the active snapshot. Again with the same index: as
  // many keys.
  void scan(Oid index, ScanKey keys, int n, ScanDirection direction = ForwardScanDirection);
  bool next();
  // Looks at no more than so many entries of the index, dead ones too, and counts them down.
  bool next(int* most);
  // What stands at that place, if the active snapshot sees it.
  bool look_at(const place& where);
  // Makes room on its page, as a scan would that comes by: for a row that is always looked at so.
  void prune(const place& where);

  // Whether a change of what was found would go through now.
  bool is_free() const;
  // As FOR NO KEY UPDATE does, waiting; what was found is then the row as it is now.
  changed lock();
  // Waits for nobody, nor does a change after it: as FOR NO KEY UPDATE SKIP LOCKED, but that it
  // also leaves what somebody else has locked in any other way.
  changed try_lock();
  changed remove();  // waits for whoever has the row locked
  // Does not wait, but where the row was not locked before, for who comes in that very moment.
  changed change();
  void insert();
  // With those before and after it, by the page, as COPY writes. They are there when insert_rest()
  // has returned.
  void insert_later();
  void insert_rest();
  place written_at() const;
  place found_at() const;

 private:
  static constexpr int most_later = 64;
  static constexpr Size most_later_bytes = 65536;  // as copyfrom.c has it

  TM_Result state() const;
  changed lock(LockWaitPolicy wait, int flags);
  bool holds(const place& where);
  void generate();
  bool keeps_keys(const index_set::one& index) const;
  void fill_indexes(TupleTableSlot* row, bool update);
  void end_scan();

  Relation relation_;
  Relation index_;
  IndexScanDesc scan_;
  ScanDirection direction_;
  BlockNumber blocks_;  // of the table, which does not shrink while it is open; 0: not looked at
  TupleTableSlot* found_;
  bool locked_;              // by lock() or try_lock(): the row that was found
  TupleTableSlot* written_;  // null: none was needed yet
  TupleTableSlot** later_;   // most_later of them, in use or null; null: none was needed yet
  int later_count_;
  Size later_bytes_;
  MemoryContext later_memory_;
  index_set* indexes_;                // null: nothing has been written yet
  Relation opened_[index_set::most];  // those of them that an entry went to
};

}  // namespace underway::pg
