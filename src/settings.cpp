#include "settings.hpp"

namespace underway::settings {

bool enabled = true;
bool superuser_queues = true;
int max_workers = 4;
int max_workers_per_database = 0;
int min_workers = 1;
int worker_idle_timeout = 60;
int worker_max_age = 3600;
int default_timeout = 15 * 60 * 1000;
int safety_check_interval = 300;
int keep_succeeded = 14 * 24 * 60;
int keep_failed = 14 * 24 * 60;
int max_crashes = 3;
int cancel_grace = 5000;
int max_queues = 4096;
int max_databases = 64;

void define() {
  DefineCustomBoolVariable(
      "underway.enabled", "Runs background work in this database, or holds all of it.",
      "Can be set for one database: ALTER DATABASE ... SET underway.enabled = off.", &enabled, true,
      PGC_SUSET, 0, nullptr, nullptr, nullptr);
  DefineCustomBoolVariable("underway.superuser_queues",
                           "Runs handlers of queues that a superuser owns.",
                           "Off: such queues are blocked.", &superuser_queues, true, PGC_SIGHUP, 0,
                           nullptr, nullptr, nullptr);
  DefineCustomIntVariable(
      "underway.max_workers", "Sets the maximum number of workers of all databases together.",
      "Workers, coordinators and the launcher are taken from max_worker_processes.", &max_workers,
      4, 0, 1000, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("underway.max_workers_per_database",
                          "Sets the maximum number of workers of one database.",
                          "0: as many as underway.max_workers.", &max_workers_per_database, 0, 0,
                          1000, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
  DefineCustomIntVariable(
      "underway.min_workers", "Sets how many idle workers stay in a database that had work lately.",
      "A warm worker starts a task at once; a new process takes tens of milliseconds.",
      &min_workers, 1, 0, 1000, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("underway.worker_idle_timeout", "Sets how long an idle worker stays.",
                          nullptr, &worker_idle_timeout, 60, 1, 86400, PGC_SIGHUP, GUC_UNIT_S,
                          nullptr, nullptr, nullptr);
  DefineCustomIntVariable(
      "underway.worker_max_age", "Sets after how long a worker is replaced.",
      "At the next end of a task. Settings made by ALTER ROLE arrive with the new process.",
      &worker_max_age, 3600, 1, 7 * 86400, PGC_SIGHUP, GUC_UNIT_S, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("underway.default_timeout",
                          "Sets how long an attempt may run where neither task nor queue says.",
                          nullptr, &default_timeout, 15 * 60 * 1000, 1, INT_MAX, PGC_SIGHUP,
                          GUC_UNIT_MS, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("underway.safety_check_interval",
                          "Sets how often each active database is looked through for work.",
                          "Nothing depends on it: workers are woken at commit and by timers.",
                          &safety_check_interval, 300, 1, 86400, PGC_SIGHUP, GUC_UNIT_S, nullptr,
                          nullptr, nullptr);
  DefineCustomIntVariable("underway.keep_succeeded", "Sets how long succeeded tasks are kept.",
                          "They go by whole tables: up to a seventh later.", &keep_succeeded,
                          14 * 24 * 60, 1, 36500 * 24 * 60, PGC_SIGHUP, GUC_UNIT_MIN, nullptr,
                          nullptr, nullptr);
  DefineCustomIntVariable(
      "underway.keep_failed", "Sets how long failed and cancelled tasks are kept.",
      "They go by whole tables: up to a seventh later.", &keep_failed, 14 * 24 * 60, 1,
      36500 * 24 * 60, PGC_SIGHUP, GUC_UNIT_MIN, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("underway.max_crashes", "Sets at how many crashes a task is given up.",
                          "Crashes of the server or of the worker while the task was running. "
                          "Failures are counted apart.",
                          &max_crashes, 3, 1, 1000000, PGC_SIGHUP, 0, nullptr, nullptr, nullptr);
  DefineCustomIntVariable("underway.cancel_grace",
                          "Sets how long a handler may go on after it was cancelled or timed out.",
                          "After that its worker is terminated.", &cancel_grace, 5000, 0,
                          3600 * 1000, PGC_SIGHUP, GUC_UNIT_MS, nullptr, nullptr, nullptr);
  DefineCustomIntVariable(
      "underway.max_queues",
      "Sets how many queues of all databases together have a place in shared memory.",
      "One more is refused.", &max_queues, 4096, 16, 100000, PGC_POSTMASTER, 0, nullptr, nullptr,
      nullptr);
  DefineCustomIntVariable(
      "underway.max_databases", "Sets how many databases can have background work.", nullptr,
      &max_databases, 64, 1, 10000, PGC_POSTMASTER, 0, nullptr, nullptr, nullptr);
  MarkGUCPrefixReserved("underway");
}

}  // namespace underway::settings
