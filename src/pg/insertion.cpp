#include "insertion.hpp"

namespace underway::pg {

namespace {

value default_of(Relation table, int attribute, EState* executor) {
  Node* expression = build_column_default(table, attribute);
  value v;
  if (expression != nullptr) {
    ExprState* state = ExecPrepareExpr(reinterpret_cast<Expr*>(expression), executor);
    v.datum = ExecEvalExpr(state, GetPerTupleExprContext(executor), &v.null);
  }
  return v;
}

}  // namespace

void insertion::read(Relation table) {
  if (memory_ == nullptr) {
    memory_ = AllocSetContextCreate(TopMemoryContext, "underway insertion", ALLOCSET_SMALL_SIZES);
  }
  MemoryContextReset(memory_);
  const TupleDesc shape = RelationGetDescr(table);
  row_ = static_cast<value*>(
      MemoryContextAlloc(memory_, sizeof(value) * static_cast<Size>(shape->natts)));
  EState* executor = CreateExecutorState();
  for (int n = 0; n < shape->natts; n++) {
    const Form_pg_attribute attribute = TupleDescAttr(shape, n);
    row_[n] = attribute->attisdropped || attribute->attgenerated != '\0'
                  ? value{}
                  : default_of(table, n + 1, executor);
    if (!row_[n].null) {
      MemoryContext before = MemoryContextSwitchTo(memory_);
      row_[n].datum = datumCopy(row_[n].datum, attribute->attbyval, attribute->attlen);
      MemoryContextSwitchTo(before);
    }
  }
  FreeExecutorState(executor);
}

void insertion::begin(table* t) {
  t->open(&relation_, &columns_);
  if (!defaults_found_.holds_of(relation_.oid())) {
    read(t->get());
    defaults_found_.was_found(relation_.oid());
  }
}

void insertion::set(table* t, const value* values) {
  t->begin_row();
  for (int n = 0; n < t->shape()->natts; n++) {
    t->set(static_cast<AttrNumber>(n + 1), row_[n].datum, row_[n].null);
  }
  for (int n = 0; n < columns_.count(); n++) {
    t->set(columns_[n], values[n].datum, values[n].null);
  }
}

void insertion::end(table* t) {
  t->close();
  CommandCounterIncrement();
}

place insertion::run(const value* values) {
  table t;
  begin(&t);
  set(&t, values);
  t.insert();
  const place written = t.written_at();
  end(&t);
  return written;
}

}  // namespace underway::pg
