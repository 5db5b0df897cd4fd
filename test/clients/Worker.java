// A worker with JDBC: java -cp postgresql.jar Worker.java jdbc:postgresql://... Ends when nothing has come for a second.
import java.sql.*;
import java.util.concurrent.*;
class Worker {
    static final String BEAT = "SELECT underway.heartbeat(?, '{\"at\": \"envelope\"}')";

    static ResultSet query(Connection c, String sql, Object... values) throws SQLException {
        PreparedStatement s = c.prepareStatement(sql);
        for (int i = 0; i < values.length; i++) s.setObject(i + 1, values[i]);
        ResultSet rows = s.executeQuery();
        return rows.next() ? rows : null;
    }

    public static void main(String[] args) throws Exception {
        ScheduledExecutorService timer = Executors.newScheduledThreadPool(1);
        // Heartbeats need a connection of their own: the other one is in its transaction.
        try (Connection c = DriverManager.getConnection(args[0]); Connection heart = DriverManager.getConnection(args[0])) {
            while (query(c, "CALL underway.wait_for_work('{letters}', '1 s')").getString(1) != null) {
                ResultSet task = query(c, "SELECT id, lease, input ->> 'to' FROM underway.dequeue('letters', 1, 'jdbc')");
                if (task == null) continue;
                Object id = task.getObject(1), lease = task.getObject(2);
                if (!query(heart, BEAT, lease).getString(1).equals("ok")) continue; // lost, or cancelled
                Future<?> beats = timer.scheduleAtFixedRate(() -> {
                    try { query(heart, BEAT, lease); } catch (SQLException e) { /* the next one may come through */ }
                }, 10, 10, TimeUnit.SECONDS);
                if (task.getString(3).equals("nobody")) {
                    query(c, "SELECT underway.fail(?, 'no such recipient', retryable => false)", lease);
                } else {
                    c.setAutoCommit(false);
                    query(c, "SELECT underway.lock_task(?)", lease);
                    query(c, "INSERT INTO sent VALUES (?, ?, 'jdbc') RETURNING 1", id, task.getString(3));
                    query(c, "SELECT underway.complete(?, ?::jsonb)", lease, "{\"sent\": true}");
                    c.setAutoCommit(true); // commits
                }
                beats.cancel(false);
            }
        }
        timer.shutdown();
    }
}
