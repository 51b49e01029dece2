//! Accounts and their devices: clients of matrix-sdk with their keys in memory, which sync in the background.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use matrix_sdk::{
    Client, ClientBuilder, ThreadingSupport,
    config::{RequestConfig, SyncSettings},
    encryption::{BackupDownloadStrategy, EncryptionSettings, identities::UserIdentity},
    reqwest::Url,
    ruma::{
        OwnedDeviceId, OwnedUserId, TransactionId, UserId,
        api::client::{
            account::register,
            uiaa::{AuthData, Dummy, MatrixUserIdentifier, Password, UserIdentifier},
        },
    },
    sliding_sync::VersionBuilder,
};

use tokio::{
    sync::{Mutex, MutexGuard},
    task::JoinHandle,
    time::{Instant, sleep},
};

/// A device as another one knows it.
pub(crate) use matrix_sdk::encryption::identities::Device as Known;

/// How long something may take that has to happen. Generous, as the machine may be busy; nothing waits so long unless it is
/// broken.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);
/// How often a condition is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(20);
/// How long a sync waits for news. Short, as the SDK asks for changed keys and shares secrets only between two syncs.
const SYNC_TIMEOUT: Duration = Duration::from_millis(500);

/// A user of one homeserver, registered anew.
pub(crate) struct Account {
    server: Url,
    pub(crate) user_id: OwnedUserId,
    password: String,
}

impl Account {
    pub(crate) async fn register(server: &Url, name: &str) -> Result<Self> {
        let client = client(server).await?;
        let mut request = register::v3::Request::new();
        let username = format!("{name}-{}", TransactionId::new()).to_lowercase();
        let password = format!("the password of {username}");
        request.username = Some(username);
        request.password = Some(password.clone());
        request.inhibit_login = true;
        let Err(refused) = client.send(request.clone()).await else {
            bail!("{server} registers without authentication");
        };
        let mut stage = Dummy::new();
        let flows = refused.as_uiaa_response().context("registration without flows")?;
        stage.session = flows.session.clone();
        request.auth = Some(AuthData::Dummy(stage));
        let answer = client.send(request).await.context("registration")?;
        Ok(Self { server: server.clone(), user_id: answer.user_id, password })
    }

    /// A new device, logged in, with its keys uploaded; it does not sync yet.
    pub(crate) async fn quiet_device(&self) -> Result<Device> {
        let client = client(&self.server).await?;
        let login = client.matrix_auth().login_username(&self.user_id, &self.password);
        login.await.context("login")?;
        client.event_cache().subscribe()?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        client.sync_once(SyncSettings::new().timeout(Duration::ZERO)).await.context("sync")?;
        Ok(Device { client, syncing: None, between_syncs: Arc::default() })
    }

    /// A new device for sliding sync, logged in, which the server must offer; it does not sync yet.
    pub(crate) async fn sliding_client(&self) -> Result<Client> {
        let client = builder(&self.server)
            .sliding_sync_version_builder(VersionBuilder::DiscoverNative)
            .with_threading_support(ThreadingSupport::Enabled { with_subscriptions: false })
            .build()
            .await
            .context("sliding sync")?;
        let login = client.matrix_auth().login_username(&self.user_id, &self.password);
        login.await.context("login")?;
        client.event_cache().subscribe()?;
        client.encryption().wait_for_e2ee_initialization_tasks().await;
        Ok(client)
    }

    /// A new device that syncs.
    pub(crate) async fn device(&self) -> Result<Device> {
        let mut device = self.quiet_device().await?;
        device.start_syncing();
        Ok(device)
    }

    /// The password, as it confirms a request.
    pub(crate) fn authentication(&self, session: Option<String>) -> AuthData {
        self.authentication_with(self.password.clone(), session)
    }

    /// A wrong password in the same place.
    pub(crate) fn wrong_authentication(&self, session: Option<String>) -> AuthData {
        self.authentication_with("not the password".to_owned(), session)
    }

    fn authentication_with(&self, password: String, session: Option<String>) -> AuthData {
        let user = MatrixUserIdentifier::new(self.user_id.to_string());
        let mut data = Password::new(UserIdentifier::Matrix(user), password);
        data.session = session;
        AuthData::Password(data)
    }
}

async fn client(server: &Url) -> Result<Client> {
    builder(server).build().await.with_context(|| format!("a client of {server}"))
}

/// Fails at the first error: a client that retries would hide a server's fault.
fn builder(server: &Url) -> ClientBuilder {
    let settings = EncryptionSettings {
        backup_download_strategy: BackupDownloadStrategy::OneShot,
        ..EncryptionSettings::default()
    };
    Client::builder()
        .homeserver_url(server)
        .request_config(RequestConfig::new().disable_retry())
        .with_encryption_settings(settings)
}

/// One device of a user, logged in.
pub(crate) struct Device {
    pub(crate) client: Client,
    syncing: Option<JoinHandle<matrix_sdk::Error>>,
    /// Held during each sync in the background.
    between_syncs: Arc<Mutex<()>>,
}

impl Device {
    pub(crate) fn start_syncing(&mut self) {
        let (client, between_syncs) = (self.client.clone(), self.between_syncs.clone());
        // `Client::sync` pauses for a second between two syncs.
        self.syncing = Some(tokio::spawn(async move {
            loop {
                let _syncs = between_syncs.lock().await;
                let settings = SyncSettings::new().timeout(SYNC_TIMEOUT);
                if let Err(error) = client.sync_once(settings).await {
                    return error;
                }
            }
        }));
    }

    /// No sync runs while the guard lives.
    pub(crate) async fn pause(&self) -> MutexGuard<'_, ()> {
        self.between_syncs.lock().await
    }

    /// One sync of a device that does not sync by itself; answers at once.
    pub(crate) async fn sync_once(&self) -> Result<()> {
        self.client.sync_once(SyncSettings::new().timeout(Duration::ZERO)).await?;
        Ok(())
    }

    pub(crate) fn id(&self) -> Result<OwnedDeviceId> {
        Ok(self.client.device_id().context("logged in")?.to_owned())
    }

    pub(crate) fn user_id(&self) -> Result<OwnedUserId> {
        Ok(self.client.user_id().context("logged in")?.to_owned())
    }

    /// Waits until `check` finds something, and returns that; `what` says what it is, should it never come.
    pub(crate) async fn until<T, F>(&self, what: &str, check: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<Option<T>>>,
    {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = check().await? {
                return Ok(found);
            }
            let user_id = self.user_id()?;
            if self.syncing.as_ref().is_some_and(JoinHandle::is_finished) {
                bail!("{user_id}: its sync has failed, while waiting: {what}");
            }
            if Instant::now() > deadline {
                bail!("{user_id}: not within {} s: {what}", DEADLINE.as_secs());
            }
            sleep(POLL).await;
        }
    }

    /// Waits until this device knows the identity of the user and `check` says yes to it.
    pub(crate) async fn knows_identity(
        &self,
        what: &str,
        user_id: &UserId,
        check: impl Fn(&UserIdentity) -> bool,
    ) -> Result<UserIdentity> {
        let encryption = self.client.encryption();
        self.until(what, async || {
            Ok(encryption.get_user_identity(user_id).await?.filter(|identity| check(identity)))
        })
        .await
    }

    /// Waits until this device knows the other one and `check` says yes to it.
    pub(crate) async fn knows_device(
        &self,
        what: &str,
        other: &Self,
        check: impl Fn(&Known) -> bool,
    ) -> Result<()> {
        let (encryption, user_id, id) = (self.client.encryption(), other.user_id()?, other.id()?);
        self.until(what, async || {
            let known = encryption.get_device(&user_id, &id).await?;
            Ok(known.filter(|device| check(device)).map(|_| ()))
        })
        .await
    }

    /// Whether this device holds the private halves of all three cross-signing keys.
    pub(crate) async fn holds_cross_signing_keys(&self) -> bool {
        let status = self.client.encryption().cross_signing_status().await;
        status.is_some_and(|status| status.is_complete())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some(syncing) = &self.syncing {
            syncing.abort();
        }
    }
}
