#include "table.hpp"

#include "compat.hpp"

#include <algorithm>

namespace underway::pg {

namespace {

// As the executor's UPDATE and DELETE do.
changed outcome(TM_Result r) {
  switch (r) {
    case TM_Ok:
      return changed::yes;
    case TM_BeingModified:
    case TM_WouldBlock:
      return changed::locked;
    case TM_Updated:
    case TM_Deleted:
      if (IsolationUsesXactSnapshot()) {
        ereport(ERROR, (errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
                        errmsg("could not serialize access due to concurrent %s",
                               r == TM_Updated ? "update" : "delete")));
      }
      return changed::no;
    default:
      return changed::no;
  }
}

}  // namespace

void table::open(Oid table, LOCKMODE lock) {
  relation_ = table_open(table, lock);
  index_ = nullptr;
  scan_ = nullptr;
  locked_ = false;
  indexes_ = nullptr;
  found_ = written_ = nullptr;
  later_ = nullptr;
  later_count_ = 0;
  later_bytes_ = 0;
  blocks_ = 0;
}

void table::open(relation* table, columns* used, LOCKMODE lock) {
  open(table->oid(), lock);
  used->find(relation_);
}

void table::close() {
  end_scan();
  if (found_ != nullptr) {
    ExecDropSingleTupleTableSlot(found_);
  }
  if (written_ != nullptr) {
    ExecDropSingleTupleTableSlot(written_);
  }
  if (later_ != nullptr) {
    for (int n = 0; n < most_later && later_[n] != nullptr; n++) {
      ExecDropSingleTupleTableSlot(later_[n]);
    }
    MemoryContextDelete(later_memory_);
  }
  if (indexes_ != nullptr) {
    for (int n = 0; n < indexes_->count; n++) {
      if (opened_[n] != nullptr) {
        index_close(opened_[n], NoLock);
      }
    }
  }
  table_close(relation_, NoLock);
}

void table::scan(Oid index, ScanKey keys, int n, ScanDirection direction) {
  direction_ = direction;
  if (scan_ != nullptr && RelationGetRelid(index_) != index) {
    end_scan();
  }
  if (scan_ == nullptr) {
    index_ = index_open(index, AccessShareLock);
    scan_ = begin_scan(relation_, index_, GetActiveSnapshot(), n);
  }
  index_rescan(scan_, keys, n, nullptr, 0);
  if (found_ == nullptr) {
    found_ = table_slot_create(relation_, nullptr);
  }
}

void table::end_scan() {
  if (scan_ != nullptr) {
    index_endscan(scan_);
    index_close(index_, NoLock);
    scan_ = nullptr;
  }
}

bool table::next() {
  locked_ = false;
  if (!index_getnext_slot(scan_, direction_, found_)) {
    return false;
  }
  slot_getallattrs(found_);
  return true;
}

place table::written_at() const { return {written_->tts_tid, file_of(relation_)}; }

place table::found_at() const { return {found_->tts_tid, file_of(relation_)}; }

bool table::next(int* most) {
  locked_ = false;
  while (*most > 0 && index_getnext_tid(scan_, direction_) != nullptr) {
    CHECK_FOR_INTERRUPTS();
    --*most;
    if (index_fetch_heap(scan_, found_)) {
      slot_getallattrs(found_);
      return true;
    }
  }
  return false;
}

// VACUUM cuts empty pages off the end before it tells of it.
bool table::holds(const place& where) {
  if (!ItemPointerIsValid(&where.at) || file_of(relation_) != where.file) {
    return false;
  }
  const BlockNumber block = ItemPointerGetBlockNumber(&where.at);
  if (block >= blocks_) {
    blocks_ = RelationGetNumberOfBlocks(relation_);
  }
  return block < blocks_;
}

void table::prune(const place& where) {
  if (holds(where)) {
    const Buffer page = ReadBuffer(relation_, ItemPointerGetBlockNumber(&where.at));
    heap_page_prune_opt(relation_, page);
    ReleaseBuffer(page);
  }
}

bool table::look_at(const place& where) {
  locked_ = false;
  if (!holds(where)) {
    return false;
  }
  ItemPointerData at = where.at;
  if (found_ == nullptr) {
    found_ = table_slot_create(relation_, nullptr);
  }
  if (!table_tuple_fetch_row_version(relation_, &at, GetActiveSnapshot(), found_)) {
    return false;
  }
  slot_getallattrs(found_);
  return true;
}

namespace {
// Outside the class, where `text` is the server's type.
char* to_c_string(Datum d) { return TextDatumGetCString(d); }
}  // namespace

char* table::text(AttrNumber column) const {
  return null(column) ? nullptr : to_c_string(value(column));
}

Jsonb* table::jsonb(AttrNumber column) const {
  return null(column) ? nullptr : DatumGetJsonbPCopy(value(column));
}

Interval* table::interval(AttrNumber column) const {
  return null(column) ? nullptr
                      : DatumGetIntervalP(datumCopy(value(column), false, sizeof(Interval)));
}

void table::begin_row() {
  if (written_ == nullptr) {
    written_ = table_slot_create(relation_, nullptr);
  }
  ExecClearTuple(written_);
  std::fill_n(written_->tts_isnull, shape()->natts, true);
}

void table::begin_copy() {
  begin_row();
  std::copy_n(found_->tts_values, shape()->natts, written_->tts_values);
  std::copy_n(found_->tts_isnull, shape()->natts, written_->tts_isnull);
}

void table::set(AttrNumber column, Datum value, bool null) {
  written_->tts_values[column - 1] = value;
  written_->tts_isnull[column - 1] = null;
}

changed table::lock() {
  return lock(LockWaitBlock, IsolationUsesXactSnapshot() ? 0 : TUPLE_LOCK_FLAG_FIND_LAST_VERSION);
}

changed table::try_lock() {
  // Looks before it tries: that costs less where many are locked.
  return state() == TM_BeingModified ? changed::locked : lock(LockWaitSkip, 0);
}

changed table::lock(LockWaitPolicy wait, int flags) {
  PreventCommandIfReadOnly("UPDATE");
  TM_FailureData failure;
  ItemPointerData at = found_->tts_tid;
  const changed done = outcome(table_tuple_lock(relation_, &at, GetActiveSnapshot(), found_,
                                                GetCurrentCommandId(true), LockTupleNoKeyExclusive,
                                                wait, static_cast<uint8>(flags), &failure));
  locked_ = done == changed::yes;
  if (locked_) {
    slot_getallattrs(found_);
  }
  return done;
}

changed table::remove() {
  PreventCommandIfReadOnly("DELETE");
  TM_FailureData failure;
  return outcome(table_tuple_delete(relation_, &found_->tts_tid, GetCurrentCommandId(true),
                                    GetActiveSnapshot(), InvalidSnapshot, true, &failure, false));
}

// As heap_update() itself looks, but that what only this transaction has locked is free.
TM_Result table::state() const {
  const auto slot = reinterpret_cast<BufferHeapTupleTableSlot*>(found_);
  HeapTuple row = slot->base.tuple;
  LockBuffer(slot->buffer, BUFFER_LOCK_SHARE);
  TM_Result is = HeapTupleSatisfiesUpdate(row, GetCurrentCommandId(false), slot->buffer);
  if (is == TM_BeingModified && (row->t_data->t_infomask & HEAP_XMAX_IS_MULTI) == 0 &&
      TransactionIdIsCurrentTransactionId(HeapTupleHeaderGetRawXmax(row->t_data))) {
    is = TM_Ok;
  }
  LockBuffer(slot->buffer, BUFFER_LOCK_UNLOCK);
  return is;
}

bool table::is_free() const { return state() == TM_Ok; }

changed table::change() {
  PreventCommandIfReadOnly("UPDATE");
  // heap_update() is not to be called without waiting for such a row (heapam.c asserts it).
  if (!locked_ && state() == TM_BeingModified) {
    return changed::locked;
  }
  TM_FailureData failure;
  LockTupleMode mode;
  index_changes needed;
  generate();
  const changed done = outcome(table_tuple_update(relation_, &found_->tts_tid, written_,
                                                  GetCurrentCommandId(true), GetActiveSnapshot(),
                                                  InvalidSnapshot, true, &failure, &mode, &needed));
  if (done == changed::yes && are_needed(needed)) {
    fill_indexes(written_, true);
  }
  return done;
}

void table::insert() {
  PreventCommandIfReadOnly("INSERT");
  generate();
  table_tuple_insert(relation_, written_, GetCurrentCommandId(true), 0, nullptr);
  fill_indexes(written_, false);
}

void table::insert_later() {
  PreventCommandIfReadOnly("INSERT");
  generate();
  // A copy: what its values point at may go.
  later_bytes_ += ExecFetchSlotHeapTuple(written_, true, nullptr)->t_len;
  if (later_ == nullptr) {
    later_ = static_cast<TupleTableSlot**>(palloc0(sizeof(TupleTableSlot*) * most_later));
    later_memory_ = AllocSetContextCreate(CurrentMemoryContext, "underway rows to insert",
                                          ALLOCSET_DEFAULT_SIZES);
  }
  // The place that it leaves has a row of the lot before, or none.
  std::swap(written_, later_[later_count_++]);
  if (later_count_ == most_later || later_bytes_ > most_later_bytes) {
    insert_rest();
  }
}

void table::insert_rest() {
  if (later_count_ == 0) {
    return;
  }
  MemoryContext before = MemoryContextSwitchTo(later_memory_);
  table_multi_insert(relation_, later_, later_count_, GetCurrentCommandId(true), 0, nullptr);
  for (int n = 0; n < later_count_; n++) {
    fill_indexes(later_[n], false);
  }
  MemoryContextSwitchTo(before);
  MemoryContextReset(later_memory_);
  later_count_ = 0;
  later_bytes_ = 0;
}

// The row to be written is complete after this.
void table::generate() {
  ExecStoreVirtualTuple(written_);
  if (indexes_ == nullptr) {
    indexes_ = indexes_of(relation_);
    std::fill_n(opened_, indexes_->count, nullptr);
  }
  ExprContext* expressions = GetPerTupleExprContext(indexes_->state);
  ResetExprContext(expressions);
  expressions->ecxt_scantuple = written_;
  for (int n = 0; n < indexes_->generated_count; n++) {
    const index_set::generated_column& g = indexes_->generated[n];
    written_->tts_values[g.column - 1] =
        ExecEvalExprSwitchContext(g.value, expressions, &written_->tts_isnull[g.column - 1]);
  }
}

// Of the row that was found. Whoever inserts the same keys finds that one, and waits for this
// transaction, as where an update makes no entry at all (HOT). The check would read all versions
// that an old snapshot keeps.
bool table::keeps_keys(const index_set::one& index) const {
  if (index.predicate != nullptr) {
    return false;  // the row may not have been in it
  }
  for (int n = 0; n < index.info->ii_NumIndexKeyAttrs; n++) {
    const AttrNumber column = index.info->ii_IndexAttrNumbers[n];
    bool is_null = column == 0;  // an expression
    const Datum now = is_null ? Datum{0} : slot_getattr(written_, column, &is_null);
    if (is_null || null(column)) {
      return false;
    }
    const Form_pg_attribute attribute = TupleDescAttr(shape(), column - 1);
    if (!datumIsEqual(now, value(column), attribute->attbyval, attribute->attlen)) {
      return false;
    }
  }
  return true;
}

// An index whose predicate says no is not even opened: the lock on the table keeps it as it is.
void table::fill_indexes(TupleTableSlot* row, bool update) {
  ExprContext* expressions = GetPerTupleExprContext(indexes_->state);
  expressions->ecxt_scantuple = row;
  for (int n = 0; n < indexes_->count; n++) {
    const index_set::one& index = indexes_->all[n];
    if (index.predicate != nullptr && !ExecQual(index.predicate, expressions)) {
      continue;
    }
    if (opened_[n] == nullptr) {
      opened_[n] = index_open(index.oid, RowExclusiveLock);
    }
    Datum values[INDEX_MAX_KEYS];
    bool nulls[INDEX_MAX_KEYS];
    FormIndexDatum(index.info, row, indexes_->state, values, nulls);
    const bool check = index.unique && !(update && keeps_keys(index));
    index_insert(opened_[n], values, nulls, &row->tts_tid, relation_,
                 check ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, update, index.info);
  }
  ResetPerTupleExprContext(indexes_->state);
}

}  // namespace underway::pg
