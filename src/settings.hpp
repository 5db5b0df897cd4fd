// The settings underway.*: defined once, when the library is loaded at server start.
// Runs in: every process. Error discipline: server code, called from _PG_init, where nothing may
// fail.
#pragma once

#include "pg/server.hpp"

namespace underway::settings {

extern bool enabled;
extern bool superuser_queues;
extern int max_workers;
extern int max_workers_per_database;  // 0: as max_workers
extern int min_workers;
extern int worker_idle_timeout;    // seconds
extern int worker_max_age;         // seconds
extern int default_timeout;        // milliseconds
extern int safety_check_interval;  // seconds
extern int keep_succeeded;         // minutes
extern int keep_failed;            // minutes
extern int max_crashes;
extern int cancel_grace;  // milliseconds
extern int max_queues;
extern int max_databases;

inline constexpr int default_max_attempts = 5;
inline constexpr int default_ttl_days = 14;

void define();

}  // namespace underway::settings
