// Enrollgate in local mode under pm2: `pm2 start ecosystem.config.cjs`. docs/local.md has the steps.
module.exports = {
  apps: [
    {
      name: "enrollgate",
      script: "/opt/enrollgate/.venv/bin/enrollgate",
      args: "run",
      interpreter: "none",
      exec_mode: "fork",
      instances: 1,
      // The operator finishes its pass after SIGINT. Its live runs have left its process tree, so pm2
      // does not kill them: the next start adopts them.
      kill_timeout: 60000,
      // 2: a setting or the database is wrong. A restart cannot help.
      stop_exit_codes: [2],
      // All settings are in docs/settings.md. Keep secrets out of this file: put them into a folder
      // and name it in ENROLLGATE_SECRETS_DIR.
      env: {
        ENROLLGATE_CONFIG_FILE: "/etc/enrollgate/enrollgate.env",
      },
    },
  ],
};
