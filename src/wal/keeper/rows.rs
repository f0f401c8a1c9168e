//! Rows of files: mapped, written beside a segment that is full, and made again where they are damaged.
//!
//! It must never take rows for those of a file that they were not made of.

use super::*;

impl<D: Disk> Keeper<D> {
    pub(super) async fn map(&self, path: &Path) -> Result<Bytes, KeepError> {
        let map = self.disk.map(path).await.map_err(not_read("map", path))?;
        Ok(Bytes::from_owner(Mapped(map)))
    }

    pub(super) async fn map_rows(&self, number: SegmentNumber) -> Result<Rc<Footer>, KeepError> {
        let path = self.rows_path(number);
        let footer = Footer::open(self.map(&path).await?, &self.place.identity);
        footer.map(Rc::new).map_err(|error| KeepError::Rows { path, error })
    }

    pub(super) async fn map_store(&self, number: SegmentNumber) -> Result<Kept, KeepError> {
        let path = self.path(PieceName::Store(number));
        let bytes = match self.map(&path).await {
            Err(KeepError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(KeepError::Missing { path });
            }
            bytes => bytes?,
        };
        let footer = open_store(&bytes, number, &self.place.identity);
        let footer = footer.map(Rc::new).map_err(|error| KeepError::Rows { path, error })?;
        Ok(Kept { footer, file_bytes: bytes.len() as u64, ordinal: 0, live: None, is_damaged: false })
    }

    /// Makes the file with a segment's rows, durable under its name only when it is complete; or finds that an earlier life
    /// has made it.
    ///
    /// # Errors
    /// If the disk is full or fails. To be tried again: nothing depends on the file.
    pub async fn write_rows(&mut self, subject: &Subject, draft: &FooterDraft) -> Result<Rc<Footer>, KeepError> {
        let number = subject.number;
        let known = self.map_rows(number).await.ok();
        let footer = match known.filter(|known| known.subject() == *subject && known.is_proven()) {
            Some(known) => known,
            None => self.make_rows(subject, draft).await?,
        };
        let (header, file_bytes) = self.header(number).await?;
        let kept = Kept {
            file_bytes: file_bytes + footer.bytes(),
            footer: Rc::clone(&footer),
            ordinal: header.epoch.ordinal(),
            live: None,
            is_damaged: false,
        };
        self.pieces.insert(PieceName::Log(number), kept);
        Ok(footer)
    }

    pub(super) async fn make_rows(&self, subject: &Subject, draft: &FooterDraft) -> Result<Rc<Footer>, KeepError> {
        let path = self.rows_path(subject.number);
        let temporary = path.with_extension("rows.tmp");
        self.unlink(&temporary).await?;
        let content = draft.finish(subject, &self.place.identity);
        self.fill(&temporary, content).await?;
        self.disk.rename(&temporary, &path).await.map_err(not_changed("rename", &temporary))?;
        let dir = &self.place.segments;
        self.disk.sync_dir(dir).await.map_err(not_changed("sync", dir))?;
        self.map_rows(subject.number).await
    }

    pub(super) async fn fill(&self, path: &Path, content: Vec<u8>) -> Result<u64, KeepError> {
        let mut content = Some(content);
        let pieces = Box::new(move || Ok(content.take()));
        self.disk.make_filled(path.to_owned(), pieces).await.map_err(not_changed("write", path))
    }

    /// The header of a segment in use, and the length of its file.
    pub(super) async fn header(&self, number: SegmentNumber) -> Result<(SegmentHeader, u64), KeepError> {
        let path = self.path(PieceName::Log(number));
        let file = match self.disk.open(&path, OpenMode::Read).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(KeepError::Missing { path }),
            file => file.map_err(not_read("open", &path))?,
        };
        let (result, block) = file.read_at(AlignedBuf::zeroed(BLOCK as usize), 0).await;
        // A block that the device cannot give is as good as one that is damaged: others have what is in the file.
        let result = result.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
        result.map_err(not_read("read the header of", &path))?;
        match FirstBlock::read(&block, &self.place.identity) {
            FirstBlock::Header(header) => Ok((header, file.bytes())),
            _ => Err(not_read("read the header of", &path)(io::ErrorKind::InvalidData.into())),
        }
    }

    /// A segment below the floor: its rows, made again where they are missing or not whole.
    pub(super) async fn take_over_segment(&self, number: SegmentNumber, last: Index) -> Result<Kept, KeepError> {
        let (header, file_bytes) = self.header(number).await?;
        let known = self.map_rows(number).await.ok();
        let footer = match known.filter(|known| {
            let subject = known.subject();
            (subject.number, subject.base, subject.base_chain, subject.last)
                == (number, header.base, header.base_chain, last)
        }) {
            Some(known) => known,
            None => {
                let (subject, draft) = self.read_rows(header, last).await?;
                self.make_rows(&subject, &draft).await?
            }
        };
        let file_bytes = file_bytes + footer.bytes();
        Ok(Kept { footer, file_bytes, ordinal: header.epoch.ordinal(), live: None, is_damaged: false })
    }

    /// The rows of a segment up to its last entry that counts, from the segment alone.
    pub(super) async fn read_rows(
        &self,
        header: SegmentHeader,
        last: Index,
    ) -> Result<(Subject, FooterDraft), KeepError> {
        let path = self.path(PieceName::Log(header.number));
        let file = self.disk.open(&path, OpenMode::Read).await.map_err(not_read("open", &path))?;
        match salvage_segment(file, header, self.place.identity, last).await {
            Salvaged { subject, rows, fault: None } => Ok((subject, rows)),
            Salvaged { fault: Some(Fault { offset, index }), .. } => Err(KeepError::Segment { path, offset, index }),
        }
    }

    /// A store segment whose rows are damaged, made again from its records where those are whole. What no byte of is written twice is
    /// written as another file.
    pub(super) async fn remake_store(&mut self, number: SegmentNumber, error: FooterError) -> Result<Kept, KeepError> {
        let path = self.path(PieceName::Store(number));
        let damaged = KeepError::Rows { path: path.clone(), error };
        let file = self.disk.open(&path, OpenMode::Read).await.map_err(not_read("open", &path))?;
        let Some((_, Salvaged { subject, rows, fault: None })) =
            salvage_store(&file, number, &self.place.identity).await
        else {
            return Err(damaged);
        };
        let rows = Footer::open(rows.finish(&subject, &self.place.identity).into(), &self.place.identity);
        let Ok(rows) = rows else { return Err(damaged) };
        let mut draft = self.begin_store();
        let mut copied = LastEntry::default();
        for row in rows.rows_from(rows.first_job()) {
            let (row, enqueue) = self.read_enqueue(PieceName::Store(number), &rows, row.job, &mut copied).await?;
            let (job, index, wall, class) = (row.job, row.index, row.wall, row.class);
            draft.push(&StoredJob { job, index, wall, class, enqueue: &enqueue });
        }
        let made = draft.number();
        self.write_store(draft, &mut Vec::new()).await?;
        let mut manifest = self.manifest.clone();
        manifest.stores.iter_mut().filter(|store| **store == number).for_each(|store| *store = made);
        manifest.stores.sort_unstable();
        manifest.save(&self.disk, &self.place.manifest, &self.place.identity).await?;
        self.manifest = manifest;
        self.mended += 1;
        self.unlink(&path).await?;
        self.map_store(made).await
    }
}
