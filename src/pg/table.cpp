#include "table.hpp"

#include "compat.hpp"

#include <algorithm>

namespace underway::pg {

namespace {

uint64 changes = 0;

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

Oid relation_named(const char* name) {
  const Oid relation = get_relname_relid(name, get_namespace_oid("underway_internal", false));
  if (!OidIsValid(relation)) {
    ereport(ERROR, (errcode(ERRCODE_UNDEFINED_TABLE),
                    errmsg("relation \"underway_internal.%s\" does not exist", name)));
  }
  return relation;
}

AttrNumber column_named(TupleDesc columns, const char* name) {
  for (int n = 0; n < columns->natts; n++) {
    const FormData_pg_attribute* a = TupleDescAttr(columns, n);
    if (!a->attisdropped && strcmp(NameStr(a->attname), name) == 0) {
      return a->attnum;
    }
  }
  return InvalidAttrNumber;
}

bool layout::is_known(Oid table) {
  static bool watching = false;
  if (!watching) {
    CacheRegisterRelcacheCallback([](Datum, Oid) { changes++; }, 0);
    watching = true;
  }
  if (table == table_ && seen_ == changes) {
    return true;
  }
  table_ = InvalidOid;
  seen_ = changes;
  return false;
}

void layout::learn(Oid table) { table_ = table; }

void table::open(Oid table, LOCKMODE lock) {
  relation_ = table_open(table, lock);
  index_ = nullptr;
  scan_ = nullptr;
  state_ = nullptr;
  result_ = nullptr;
  found_ = written_ = nullptr;
}

void table::close() {
  end_scan();
  if (found_ != nullptr) {
    ExecDropSingleTupleTableSlot(found_);
  }
  if (written_ != nullptr) {
    ExecDropSingleTupleTableSlot(written_);
  }
  if (result_ != nullptr) {
    ExecCloseIndices(result_);
    FreeExecutorState(state_);
  }
  table_close(relation_, NoLock);
}

void table::scan(Oid index, ScanKey keys, int n) {
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
  if (!index_getnext_slot(scan_, ForwardScanDirection, found_)) {
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
  std::fill_n(written_->tts_isnull, columns()->natts, true);
}

void table::begin_copy() {
  begin_row();
  std::copy_n(found_->tts_values, columns()->natts, written_->tts_values);
  std::copy_n(found_->tts_isnull, columns()->natts, written_->tts_isnull);
}

void table::set(AttrNumber column, Datum value, bool null) {
  written_->tts_values[column - 1] = value;
  written_->tts_isnull[column - 1] = null;
}

changed table::remove() {
  PreventCommandIfReadOnly("DELETE");
  TM_FailureData failure;
  return outcome(table_tuple_delete(relation_, &found_->tts_tid, GetCurrentCommandId(true),
                                    GetActiveSnapshot(), InvalidSnapshot, true, &failure, false));
}

changed table::change() {
  PreventCommandIfReadOnly("UPDATE");
  TM_FailureData failure;
  LockTupleMode mode;
  index_changes needed;
  ExecStoreVirtualTuple(written_);
  const auto update = [&](bool wait) {
    return table_tuple_update(relation_, &found_->tts_tid, written_, GetCurrentCommandId(true),
                              GetActiveSnapshot(), InvalidSnapshot, wait, &failure, &mode, &needed);
  };
  TM_Result result = update(false);
  if (result == TM_BeingModified && TransactionIdIsCurrentTransactionId(failure.xmax)) {
    result = update(true);  // locked by ourselves: there is nobody to wait for
  }
  const changed done = outcome(result);
  if (done == changed::yes && are_needed(needed)) {
    fill_indexes(true);
  }
  return done;
}

void table::insert() {
  PreventCommandIfReadOnly("INSERT");
  ExecStoreVirtualTuple(written_);
  table_tuple_insert(relation_, written_, GetCurrentCommandId(true), 0, nullptr);
  fill_indexes(false);
}

void table::fill_indexes(bool update) {
  if (result_ == nullptr) {
    state_ = CreateExecutorState();
    result_ = makeNode(ResultRelInfo);
    InitResultRelInfo(result_, relation_, 0, nullptr, 0);
    ExecOpenIndices(result_, false);
  }
  insert_index_tuples(result_, written_, state_, update);
  ResetPerTupleExprContext(state_);
}

}  // namespace underway::pg
