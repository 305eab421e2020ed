-- Schema of Mail Relay Tracker, for MariaDB 10.5 and later, MySQL 8 and 9:
--     sudo mysql < schema.sql
-- Loading it again changes nothing that is there. No statement needs more than one of these servers offers.

CREATE DATABASE IF NOT EXISTS mail_tracking CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;
USE mail_tracking;

-- One row per message and recipient. Times are UTC; the tracker sets its session's time zone, so NOW() compares rightly in any zone.
-- Text compares without regard to case; queue IDs do not: long ones differ by case alone.
CREATE TABLE IF NOT EXISTS mail_relay_log (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY,
    server_hostname VARCHAR(255) NOT NULL COMMENT 'configured name, else the host column of the log',
    queue_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NOT NULL COMMENT 'Postfix queue ID; NOQUEUE-YYYYMMDDhhmmssnnnnnn when refused before one existed',
    first_seen TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) COMMENT 'first log line of the message, UTC',
    last_seen TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6) COMMENT 'last log line about this recipient, UTC',
    recipient_no INT UNSIGNED NOT NULL DEFAULT 0 COMMENT '0, 1, … in order of appearance',
    client_hostname VARCHAR(255) NULL COMMENT 'name of the client that handed the mail in',
    client_ip VARCHAR(45) NULL COMMENT 'its address; NULL for local submission',
    helo VARCHAR(255) NULL COMMENT 'its HELO or EHLO name, when logged',
    protocol VARCHAR(16) NULL COMMENT 'SMTP or ESMTP, when logged',
    sasl_username VARCHAR(255) NULL COMMENT 'the login name of an authenticated client',
    client_tls VARCHAR(64) NULL COMMENT 'TLS protocol and cipher of the client''s session',
    message_id VARCHAR(512) NULL COMMENT 'Message-ID without its brackets',
    size INT UNSIGNED NULL COMMENT 'bytes of the message content',
    nrcpt INT UNSIGNED NULL COMMENT 'recipients after alias expansion',
    envelope_from VARCHAR(1024) NULL COMMENT 'sender as logged, empty for bounces',
    original_envelope_from VARCHAR(1024) NULL COMMENT 'the sender behind SRS, else the same as envelope_from',
    spf_result VARCHAR(16) NULL COMMENT 'Pass, Fail, Softfail, Neutral, None, Temperror, Permerror',
    dkim_result VARCHAR(16) NULL COMMENT 'pass, fail, none, temperror, permerror, signed',
    dkim_signatures SMALLINT UNSIGNED NULL COMMENT 'signatures the message bore, when logged',
    dkim_domain VARCHAR(255) NULL COMMENT 'd= of the deciding signature',
    dkim_selector VARCHAR(255) NULL COMMENT 's= of the deciding signature',
    dkim_algorithm VARCHAR(32) NULL COMMENT 'a= of the deciding signature',
    dmarc_result VARCHAR(16) NULL COMMENT 'pass, fail, none, temperror, permerror',
    dmarc_domain VARCHAR(255) NULL COMMENT 'the From domain that DMARC judged',
    spam_status VARCHAR(3) NULL COMMENT 'Yes or No',
    spam_score DECIMAL(8,3) NULL COMMENT 'with its decimals when any line has them',
    spam_required DECIMAL(8,3) NULL COMMENT 'the threshold',
    spam_tests TEXT NULL COMMENT 'rules that fired, comma-separated',
    milter_action VARCHAR(16) NULL COMMENT 'hold, reject, discard… of a milter or a header or body check',
    milter_reason TEXT NULL COMMENT 'its text',
    orig_to VARCHAR(1024) NULL COMMENT 'the recipient as the client named it',
    upstream_to VARCHAR(1024) NULL COMMENT 'the recipient handed on; NULL when refused or held before any hop',
    relay_host VARCHAR(255) NULL COMMENT 'next hop; none, local, virtual or a pipe''s name; a socket as host[path]',
    relay_ip VARCHAR(45) NULL COMMENT 'its address',
    relay_port SMALLINT UNSIGNED NULL COMMENT 'its port',
    relay_tls VARCHAR(64) NULL COMMENT 'TLS towards the next hop; NULL when in clear text',
    relay_status VARCHAR(16) NULL COMMENT 'what became of it',
    smtp_code SMALLINT UNSIGNED NULL COMMENT 'three-digit reply code, only when logged',
    dsn VARCHAR(16) NULL COMMENT 'enhanced status code, only when logged',
    relay_message TEXT NULL COMMENT 'the reply or the reason in full',
    delay DECIMAL(12,3) NULL COMMENT 'seconds from arrival to this delivery attempt',
    delays VARCHAR(64) NULL COMMENT 'its four parts a/b/c/d as logged',
    next_queue_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'the ID that the next hop gave',
    parent_queue_id VARCHAR(64) CHARACTER SET ascii COLLATE ascii_bin NULL COMMENT 'the message this one came from',
    UNIQUE KEY message_recipient (server_hostname, queue_id, first_seen, recipient_no),
    KEY first_seen (first_seen, relay_status),
    KEY outcome (relay_status, first_seen),
    KEY orig_to (orig_to (191), relay_status),
    KEY upstream_to (upstream_to (191)),
    KEY sender (original_envelope_from (191), first_seen),
    KEY client (client_ip, first_seen),
    KEY message_id (message_id (191)),
    KEY queue_id (queue_id),
    KEY parent (parent_queue_id),
    KEY dmarc (dmarc_result, client_ip, dmarc_domain),
    KEY spf (spf_result, first_seen),
    KEY spam (spam_status, first_seen)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC DEFAULT CHARACTER SET = utf8mb4 COLLATE = utf8mb4_unicode_ci;

-- Each mail once, as it ended: a requeued row goes on under another queue ID, where the outcome stands.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW mail_final AS
    SELECT * FROM mail_relay_log WHERE relay_status <> 'requeued';

-- What failed, or has not arrived yet, and why.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW mail_problems AS
    SELECT first_seen, last_seen, server_hostname, queue_id, original_envelope_from, orig_to, upstream_to, client_ip, client_hostname,
           relay_host, relay_status, smtp_code, dsn, relay_message
    FROM mail_relay_log WHERE relay_status IN ('bounced', 'deferred', 'expired', 'held', 'rejected');

-- Mails per day and outcome.
CREATE OR REPLACE SQL SECURITY INVOKER VIEW mail_daily AS
    SELECT DATE(first_seen) AS day, server_hostname, relay_status, COUNT(*) AS mails
    FROM mail_relay_log WHERE relay_status <> 'requeued' GROUP BY DATE(first_seen), server_hostname, relay_status;

-- Retention: an hourly event that deletes what is older than 90 days, a thousand rows at a time, so that no writer waits for it.
-- It is made disabled. To use it, with another number of days if you like, and with event_scheduler = ON in the server's configuration:
--     ALTER EVENT mail_tracking.mail_relay_log_retention ENABLE;
DELIMITER //
CREATE EVENT IF NOT EXISTS mail_relay_log_retention
    ON SCHEDULE EVERY 1 HOUR
    DISABLE
    COMMENT 'deletes rows older than 90 days, in small batches'
    DO BEGIN
        DECLARE gone INT DEFAULT 1;
        WHILE gone > 0 DO
            DELETE FROM mail_relay_log WHERE first_seen < NOW() - INTERVAL 90 DAY ORDER BY first_seen LIMIT 1000;
            SET gone = ROW_COUNT();
            DO SLEEP(0.1);
        END WHILE;
    END //
DELIMITER ;

-- The tracker's user, with no more rights than it needs; a pair of lines per mail server. Take a password of your own.
--     CREATE USER 'mailtracker'@'localhost' IDENTIFIED BY 'secure_password';
--     GRANT INSERT, SELECT, UPDATE ON mail_tracking.* TO 'mailtracker'@'localhost';
--     CREATE USER 'mailtracker'@'192.0.2.25' IDENTIFIED BY 'secure_password' REQUIRE SSL;
--     GRANT INSERT, SELECT, UPDATE ON mail_tracking.* TO 'mailtracker'@'192.0.2.25';
