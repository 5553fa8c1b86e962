-- The table as a Node.js application creates it. Enrollgate reads id, status, email and course_url, and writes only status.
-- It never alters the table. The index keeps queries fast when there are many rows.
CREATE TABLE IF NOT EXISTS download_tasks (
  id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
  status VARCHAR(32) NOT NULL,
  email VARCHAR(255) NOT NULL,
  course_url VARCHAR(2048) NOT NULL,
  created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
  INDEX ix_download_tasks_status (status)
);
